#!/usr/bin/env python3
"""
Compare methods: train and evaluate each with several seeds as a plan (YAML) says, and write tables,
curves and the differences.

Run it again to continue: what is finished is not done again. In the plan's output folder are then
comparison.txt, .md, .csv and .json, ap_against_gflops.png, and a folder for each run. Where a plan
has one backbone that all runs start from, it is trained before them.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence

import torch
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from mutualnet_det.config import check_output_dir
from mutualnet_det.data.check import check_datasets
from mutualnet_det.errors import reported
from mutualnet_det.lab.comparison import (
    Plan,
    Run,
    RunsError,
    Training,
    check_folder,
    collect,
    failure,
    is_finished,
    locked,
    read_plan,
    run_all,
    tool_commands,
    write_comparison,
)


def uses_gpus(plan: Plan) -> bool:
    return plan.runs[0].cfg.MODEL.DEVICE.startswith("cuda")


def num_cores() -> int:
    """The cores of the CPU that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_processes(plan: Plan) -> int:
    """Return one per GPU or, on the CPU, one per core."""
    return torch.cuda.device_count() if uses_gpus(plan) else num_cores()


def environments(plan: Plan, num_processes: int) -> list[dict[str, str]]:
    """The environment variables of each process: its share of the cores, and its GPU."""
    threads = max(num_cores() // num_processes, 1)
    share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    if not uses_gpus(plan):
        return [share] * num_processes
    gpus = [str(number) for number in range(torch.cuda.device_count())]
    # Numbers count among all GPUs of the machine: keep to those this process was given.
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        gpus = given.split(",")[: len(gpus)]
    return [{**share, "CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(num_processes)]


def first_seed(plan: Plan) -> list[Run]:
    return [run for run in plan.runs if run.seed == plan.runs[0].seed]


def describe(plan: Plan) -> str:
    """Describe the plan's runs, and the commands that make those of the first seed."""
    runs = first_seed(plan)
    seeds = sorted({run.seed for run in plan.runs})
    rows = [
        (
            *(run.title, run.steps, f"{run.gflops_per_step:.2f}"),
            *(f"{run.steps * run.gflops_per_step / 1000:.2f}", len(run.points)),
        )
        for run in runs
    ]
    headers = ("training", "steps", "GFLOPs per step", "TFLOPs", "points evaluated")
    lines = []
    if pretraining := plan.pretraining:
        lines += [
            f"First, unless {pretraining.folder} has it, {pretraining.steps} steps of pretraining:",
            *command_lines(pretraining),
            "",
        ]
    lines += [
        f"{len(plan.runs)} runs, {len(runs)} for each of the seeds {', '.join(map(str, seeds))}, "
        f"into {plan.output}:",
        "",
        tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 4)),
        "",
        f"The commands of seed {runs[0].seed}; others differ in SEED and OUTPUT_DIR:",
    ]
    for run in runs:
        lines += ["", run.name, *command_lines(run)]
    return "\n".join(lines)


def command_lines(run: Training) -> list[str]:
    return [
        "    " + " ".join(map(quoted, arguments))
        for _, _, *arguments in tool_commands(run)  # without `python -m`
    ]


def quoted(word: str) -> str:
    """Quote a word for a shell; in double quotes where single ones would have to be escaped."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)


def pretrain(pretraining: Training, environment: dict[str, str]) -> None:
    """Train the backbone that all runs start from, alone on the machine, unless it is there."""
    # Another plan's comparison may be at it.
    with locked(pretraining.folder, patient=True) as lock:
        failed = run_all([pretraining], tool_commands, [environment], lock)
        for run, status in failed.items():
            raise RunsError(f"{failure(run, status)}\nWithout it, nothing else was begun.")


def report_command(plan: Plan) -> str:
    """The command that lays the curves of the first seed's runs over one another."""
    runs = first_seed(plan)
    names = [run.title for run in runs]
    folders = [str(run.folder) for run in runs]
    output = str(plan.output / "report.html")
    command = ["mutualnet", "report", *folders, "--names", *names, "--output", output]
    return shlex.join(command)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", metavar="PLAN", help="such as compare_shapes; or your own YAML")
    parser.add_argument("--output", metavar="FOLDER", help="in place of the plan's own")
    parser.add_argument(
        "--num-processes",
        type=int,
        metavar="N",
        help="runs at a time; default: one per core or GPU",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the plan and print its runs and commands"
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.num_processes is not None and args.num_processes < 1:
        parser.error(f"--num-processes must be at least 1, got {args.num_processes}")
    return args


def main(args: argparse.Namespace) -> None:
    plan = read_plan(args.plan, args.output)
    if args.dry_run:
        print(describe(plan))
        return
    check_output_dir(str(plan.output))
    setup_logger(str(plan.output), name="mutualnet_det")
    trainings = [*filter(None, [plan.pretraining]), *plan.runs]
    for cfg in {str(training.cfg.DATASETS): training.cfg for training in trainings}.values():
        check_datasets(cfg)
    for training in trainings:
        check_folder(training)
    num_processes = args.num_processes or default_processes(plan)
    with locked(plan.output) as lock:
        # Finished, its folder may be one that nobody can write.
        first = plan.pretraining
        if first and not is_finished(first) and not all(map(is_finished, plan.runs)):
            pretrain(first, *environments(plan, 1))
        failed = run_all(plan.runs, tool_commands, environments(plan, num_processes), lock)
        print(write_comparison(collect(plan, num_processes), plan.output))
    print(f"Everything is in {plan.output}. A page with the runs of one seed:")
    print(report_command(plan))
    if failed:
        lines = "\n".join(failure(run, status) for run, status in failed.items())
        raise RunsError(
            f"{len(failed)} of {len(plan.runs)} runs failed:\n{lines}\n"
            "The others are done. Run this again to try those that failed once more."
        )


if __name__ == "__main__":
    with reported():
        main(parse_args())

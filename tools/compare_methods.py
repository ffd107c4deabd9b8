#!/usr/bin/env python3
"""
Compare methods: train and evaluate each with several seeds as a plan (YAML) says, and write tables,
curves and the differences.

Run it again to continue: what is finished is not done again. In the plan's output folder are then
comparison.txt, .md, .csv and .json, ap_against_gflops.png, and a folder for each run.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

import torch
from detectron2.utils.logger import setup_logger

from mutualnet_det.comparison import (
    Plan,
    RunsError,
    collect,
    failure,
    locked,
    read_plan,
    run_all,
    tool_commands,
    write_comparison,
)
from mutualnet_det.config import ConfigError, check_output_dir
from mutualnet_det.data.check import check_datasets
from mutualnet_det.errors import reported

TOOLS = Path(__file__).resolve().parent


def default_processes(plan: Plan) -> int:
    """One per GPU or, on the CPU, one per core."""
    if plan.runs[0].cfg.MODEL.DEVICE.startswith("cuda"):
        return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environments(plan: Plan, num_processes: int) -> list[dict[str, str]]:
    """The environment variables of each process: its GPU, or its share of the cores."""
    if plan.runs[0].cfg.MODEL.DEVICE.startswith("cuda"):
        count = torch.cuda.device_count()
        return [{"CUDA_VISIBLE_DEVICES": str(i % count)} for i in range(num_processes)]
    threads = max((os.cpu_count() or 1) // num_processes, 1)
    return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}] * num_processes


def describe(plan: Plan) -> str:
    """What the plan's runs are and the commands that make them."""
    commands = tool_commands(plan, TOOLS)
    lines = []
    for run in plan.runs:
        lines.append(
            f"{run.name}: {run.steps} steps of {run.gflops_per_step:.2f} GFLOPs, evaluated at "
            f"{len(run.points)} points"
        )
        lines += [f"    {shlex.join(command)}" for command in commands(run)]
    return "\n".join(lines)


def report_command(plan: Plan) -> str:
    """What lays the curves of the first seed's runs over one another."""
    runs = [run for run in plan.runs if run.seed == plan.runs[0].seed]
    names = [" ".join(filter(None, (run.method.label, run.network))) for run in runs]
    folders = [str(run.folder) for run in runs]
    output = str(plan.output / "report.html")
    command = ["python", "tools/report.py", *folders, "--names", *names, "--output", output]
    return shlex.join(command)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", metavar="PLAN", help="such as configs/compare_shapes.yaml")
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
    args = parser.parse_args()
    if args.num_processes is not None and args.num_processes < 1:
        raise ConfigError(f"--num-processes is {args.num_processes}; expected at least 1.")

    plan = read_plan(args.plan, args.output)
    if args.dry_run:
        print(describe(plan))
        return
    check_output_dir(str(plan.output))
    setup_logger(str(plan.output), name="mutualnet_det")
    for cfg in {str(run.cfg.DATASETS): run.cfg for run in plan.runs}.values():
        check_datasets(cfg)
    num_processes = args.num_processes or default_processes(plan)
    with locked(plan.output) as lock:
        failed = run_all(
            plan.runs, tool_commands(plan, TOOLS), environments(plan, num_processes), lock
        )
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
        main()

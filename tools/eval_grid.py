#!/usr/bin/env python3
"""
Evaluate a trained detector or classifier at every operating point of a grid: AP or accuracy, cost
and time, the query table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import setup_logger

from mutualnet_det.arguments import add_overrides, check_overrides, parse_list_option
from mutualnet_det.checkpoint import find_weights, load_detector
from mutualnet_det.config import (
    ConfigError,
    check_no_gpu_named,
    check_num_gpus,
    check_output_dir,
    check_points,
    grid_points,
    load_config,
)
from mutualnet_det.errors import reported
from mutualnet_det.evaluation import evaluate_grid
from mutualnet_det.evaluation.confusion import class_table
from mutualnet_det.runtime.device import hardware_name
from mutualnet_det.slimmable import OperatingPoint
from mutualnet_det.terminal import without_colours

EXAMPLES = """Examples:

The grid of the config, of the weights in its OUTPUT_DIR:
    $ mutualnet evaluate --config-file quickstart_shapes

Two operating points of other weights:
    $ mutualnet evaluate --config-file cfg.yaml --points 0.25x240 1.0x600 MODEL.WEIGHTS model.pth

Images and points divided among 8 GPUs; among 4 processes on the CPU, each with its share of cores:
    $ mutualnet evaluate --config-file cfg.yaml --num-gpus 8
    $ mutualnet evaluate --config-file cfg.yaml --num-processes 4 MODEL.DEVICE cpu
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet evaluate",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="of the training")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="take the last checkpoint in OUTPUT_DIR, unless MODEL.WEIGHTS is given, and go on "
        "with an evaluation that was interrupted",
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="of this machine; default: 1. Give each of several machines some of the points and "
        "an --output of its own",
    )
    parser.add_argument(
        "--num-processes", type=int, default=1, metavar="N", help="on the CPU; default: 1"
    )
    for option, meaning in (
        ("--points", "operating points such as 0.5x360; default: the grid of the config"),
        ("--widths", "widths, each at every resolution"),
        ("--resolutions", "short sides in px, each at every width"),
    ):
        parser.add_argument(option, nargs="+", metavar=option[2:-1].upper(), help=meaning)
    parser.add_argument("--output", metavar="FOLDER", help="default: OUTPUT_DIR/grid")
    parser.add_argument(
        "--classes",
        action="store_true",
        help="print the scores of each class too, and what it is found as, at the best point",
    )
    add_overrides(parser)
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of the tool; ``points``, ``widths`` and ``resolutions`` are None if not given."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    check_overrides(parser, args)
    if args.points and (args.widths or args.resolutions):
        parser.error("--points lists whole operating points: give no --widths or --resolutions")
    for name, kind in (("points", OperatingPoint.parse), ("widths", float), ("resolutions", int)):
        parse_list_option(parser, args, name, kind)
    return args


def chosen_points(args: argparse.Namespace, cfg: CfgNode) -> list[OperatingPoint]:
    """The operating points that the arguments ask for; what they leave open is the config's."""
    if args.points:
        return args.points
    default = grid_points(cfg)
    widths = args.widths or sorted({point.width for point in default})
    resolutions = args.resolutions or sorted({point.resolution for point in default})
    return [OperatingPoint(width, resolution) for width in widths for resolution in resolutions]


def chosen_devices(args: argparse.Namespace, cfg: CfgNode) -> list[str]:
    """
    The devices of the processes that the arguments ask for; none for this one alone.

    Raises:
        ConfigError: for a number that this machine or ``MODEL.DEVICE`` does not have.
    """
    check_num_gpus(args.num_gpus)
    if args.num_gpus > 1:
        check_no_gpu_named(cfg)
    if args.num_processes < 1:
        raise ConfigError(f"--num-processes is {args.num_processes}; expected at least 1.")
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    if args.num_gpus > 1 and on_cpu:
        raise ConfigError(
            f"--num-gpus is {args.num_gpus}, but MODEL.DEVICE is cpu: give --num-processes instead."
        )
    if args.num_processes > 1 and not on_cpu:
        raise ConfigError(
            f"--num-processes is {args.num_processes}, but MODEL.DEVICE is {cfg.MODEL.DEVICE}, and "
            "a GPU takes one process: give --num-gpus, or add MODEL.DEVICE cpu."
        )
    if args.num_processes > 1:
        return ["cpu"] * args.num_processes
    devices = [f"cuda:{index}" for index in range(args.num_gpus)] if args.num_gpus > 1 else []
    names = {hardware_name(torch.device(device)) for device in devices}
    if len(names) > 1:
        raise ConfigError(
            f"--num-gpus is {args.num_gpus}, and these are of several kinds ({', '.join(names)}), "
            "but a grid has latencies of one. Choose GPUs with CUDA_VISIBLE_DEVICES."
        )
    return devices


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    devices = chosen_devices(args, cfg)
    points = chosen_points(args, cfg)
    check_points(points, cfg)
    output = args.output or str(Path(cfg.OUTPUT_DIR) / "grid")
    check_output_dir(output)
    for name in ("detectron2", "mutualnet_det"):
        without_colours(setup_logger(output, name=name))

    cfg.defrost()
    # As in training, --resume goes for the last checkpoint; weights named beside it come first.
    last = args.resume and "MODEL.WEIGHTS" not in args.opts
    cfg.MODEL.WEIGHTS = find_weights(cfg, resume=last)
    cfg.freeze()
    model, calibrations = load_detector(cfg, cfg.MODEL.WEIGHTS)
    grid = evaluate_grid(
        cfg,
        model,
        calibrations,
        points,
        output,
        calibrate=True,
        resume=args.resume,
        devices=devices,
    )
    table = grid.query_table()
    print("\n".join(["", str(table), *grid.notes]))
    if args.classes:
        (best,) = (row for row in grid.rows if row.point == table.best.point)
        print(f"\n{class_table(Path(output), best)}")
    print(f"\nEverything is in {output}, pictures in {output}/figures.")


if __name__ == "__main__":
    with reported():
        main(parse_args())

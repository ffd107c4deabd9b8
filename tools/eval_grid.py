#!/usr/bin/env python3
"""
Evaluate a trained detector or classifier at every operating point of a grid: AP or accuracy, cost
and time, the query table.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils import comm

from mutualnet_det.arguments import add_overrides, check_overrides, parse_list_option
from mutualnet_det.checkpoint import find_weights, load_detector
from mutualnet_det.config import check_output_dir, check_points, grid_points, load_config
from mutualnet_det.distributed import sharing_errors
from mutualnet_det.engine.processes import run_in_processes
from mutualnet_det.engine.setup import set_up_loggers
from mutualnet_det.errors import reported
from mutualnet_det.evaluation import evaluate_grid
from mutualnet_det.evaluation.confusion import class_table
from mutualnet_det.slimmable import OperatingPoint

EXAMPLES = """Examples:

The grid of the config, of the weights in its OUTPUT_DIR:
    $ mutualnet evaluate --config-file quickstart_shapes

Two operating points of other weights:
    $ mutualnet evaluate --config-file cfg.yaml --points 0.25x240 1.0x600 MODEL.WEIGHTS model.pth

Images and points divided among 8 GPUs; among 4 processes on the CPU, each with its share of cores:
    $ mutualnet evaluate --config-file cfg.yaml --num-gpus 8
    $ mutualnet evaluate --config-file cfg.yaml --num-gpus 4 MODEL.DEVICE cpu

Among the GPUs of several machines, which share OUTPUT_DIR; the same command on each:
    $ torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        -m mutualnet evaluate --config-file cfg.yaml --resume
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
        help="processes, each with a GPU or, with MODEL.DEVICE cpu, some cores; default: 1",
    )
    # What else Detectron2 starts processes by; torchrun joins machines.
    parser.set_defaults(num_machines=1, machine_rank=0, dist_url="auto")
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


def evaluate(args: argparse.Namespace) -> None:
    """Evaluate, in each of the processes that do it together."""
    with sharing_errors():
        cfg = load_config(args.config_file, args.opts)
        points = chosen_points(args, cfg)
        check_points(points, cfg)
        output = args.output or str(Path(cfg.OUTPUT_DIR) / "grid")
        check_output_dir(output)
    set_up_loggers(output)
    cfg.defrost()
    with sharing_errors():
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
        together=True,
    )
    if not comm.is_main_process():
        return
    table = grid.query_table()
    print("\n".join(["", str(table), *grid.notes]))
    if args.classes:
        (best,) = (row for row in grid.rows if row.point == table.best.point)
        print(f"\n{class_table(Path(output), best)}")
    print(f"\nEverything is in {output}, pictures in {output}/figures.")


def main(args: argparse.Namespace) -> None:
    run_in_processes(evaluate, args)


if __name__ == "__main__":
    with reported():
        main(parse_args())

#!/usr/bin/env python3
"""
Evaluate a trained detector or classifier at every operating point of a grid: AP or accuracy, cost
and time, the query table.

Used like train_net.py: --config-file, --resume and KEY VALUE overrides. --resume continues an
evaluation that was interrupted.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import os
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.utils.logger import setup_logger

from mutualnet_det.checkpoint import find_weights, load_detector
from mutualnet_det.config import check_output_dir, check_points, grid_points, load_config
from mutualnet_det.data.check import check_datasets
from mutualnet_det.engine import calibrate_points
from mutualnet_det.engine.calibration import calibration_images
from mutualnet_det.errors import reported
from mutualnet_det.evaluation import evaluate_grid
from mutualnet_det.slimmable import OperatingPoint

EXAMPLES = """Examples:

The grid of the config, of the weights in its OUTPUT_DIR:
    $ tools/eval_grid.py --config-file configs/quickstart_shapes.yaml

Two operating points of other weights:
    $ tools/eval_grid.py --config-file cfg.yaml --points 0.25x240 1.0x600 MODEL.WEIGHTS model.pth
"""


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of the tool; ``points``, ``widths`` and ``resolutions`` are None if not given."""
    parser = default_argument_parser(EXAMPLES)
    for option, meaning in (
        ("--points", "operating points such as 0.5x360; default: the grid of the config"),
        ("--widths", "widths, each at every resolution"),
        ("--resolutions", "short sides in px, each at every width"),
    ):
        parser.add_argument(option, nargs="+", metavar=option[2:-1].upper(), help=meaning)
    parser.add_argument("--output", metavar="FOLDER", help="default: OUTPUT_DIR/grid")
    args = parser.parse_args(arguments)
    misplaced = [option for option in args.opts if option.startswith("--")]
    if misplaced:
        parser.error(f"{misplaced[0]} must come before the KEY VALUE overrides")
    if args.points and (args.widths or args.resolutions):
        parser.error("--points lists whole operating points: give no --widths or --resolutions")
    for name, kind in (("points", OperatingPoint.parse), ("widths", float), ("resolutions", int)):
        values = getattr(args, name)
        if values is None:
            continue
        # A list takes all that follows; overrides are the part that begins with a letter.
        overrides = list(itertools.dropwhile(lambda value: not value[:1].isalpha(), values))
        values = values[: len(values) - len(overrides)]
        args.opts = overrides + args.opts
        if not values:
            parser.error(f"--{name} needs at least one value")
        try:
            setattr(args, name, [kind(value) for value in values])
        except ValueError as error:
            parser.error(f"--{name}: {error}")
    return args


def chosen_points(args: argparse.Namespace, cfg: CfgNode) -> list[OperatingPoint]:
    """The operating points that the arguments ask for; what they leave open is the config's."""
    if args.points:
        return args.points
    default = grid_points(cfg)
    widths = args.widths or sorted({point.width for point in default})
    resolutions = args.resolutions or sorted({point.resolution for point in default})
    return [OperatingPoint(width, resolution) for width in widths for resolution in resolutions]


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    points = chosen_points(args, cfg)
    check_points(points, cfg)
    output = args.output or os.path.join(cfg.OUTPUT_DIR, "grid")
    check_output_dir(output)
    for name in ("detectron2", "mutualnet_det"):
        setup_logger(output, name=name)
    if args.num_gpus > 1:
        logging.getLogger("mutualnet_det").warning("The grid is evaluated on one GPU.")

    cfg.defrost()
    # As in training, --resume goes for the last checkpoint; weights named beside it come first.
    last = args.resume and "MODEL.WEIGHTS" not in args.opts
    cfg.MODEL.WEIGHTS = find_weights(cfg, resume=last)
    model, calibrations = load_detector(cfg, cfg.MODEL.WEIGHTS)
    is_calibrated = all(point in calibrations for point in points)
    if is_calibrated:
        cfg.DATASETS.TRAIN = ()  # training images are for calibrating alone
    cfg.freeze()
    check_datasets(cfg)
    images = None if is_calibrated else calibration_images(cfg)

    grid = evaluate_grid(
        cfg,
        model,
        calibrations,
        points,
        output,
        calibrate=functools.partial(calibrate_points, cfg, model, calibrations, images=images),
        resume=args.resume,
    )
    print(f"\n{grid.query_table()}\n\nEverything is in {output}, pictures in {output}/figures.")


if __name__ == "__main__":
    with reported():
        main(parse_args())

#!/usr/bin/env python3
"""
Write the plain network of one operating point of a trained, evaluated model, with a card that says
how it is used. It is kept only if it finds on real images what the model finds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mutualnet_det.errors import reported
from mutualnet_det.evaluation import Grid
from mutualnet_det.evenly import evenly
from mutualnet_det.runtime import QueryEntry
from mutualnet_det.runtime.export import (
    FORMATS,
    check_target,
    dataset_images,
    export_point,
)
from mutualnet_det.runtime.pretrained import Pretrained, check_weights, load_pretrained
from mutualnet_det.runtime.sources import ImageFiles
from mutualnet_det.slimmable import OperatingPoint


def grid_entry(folder: str, pretrained: Pretrained, point: OperatingPoint) -> QueryEntry | None:
    """The entry of a point in the folder's grid; the query table has only those worth using."""
    file = Path(folder, "grid", "grid.json")
    if not file.is_file():
        return None
    grid = Grid.load(file)
    check_weights(grid.run["weights_fingerprint"], pretrained.calibrations, str(file))
    return next((row.entry() for row in grid.rows if row.point == point), None)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mutualnet export", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="the OUTPUT_DIR of a training")
    parser.add_argument("--point", required=True, type=OperatingPoint.parse, help="such as 0.5x360")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder to make")
    parser.add_argument(
        "--image-folder", metavar="DIR", help="compare on these images; default: DATASETS.TEST"
    )
    parser.add_argument(
        "--images", type=int, default=8, metavar="N", help="how many at most (default: 8)"
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.images < 1:
        parser.error("--images must be at least 1")
    return args


def main(args: argparse.Namespace) -> None:
    check_target(args.output)
    pretrained = load_pretrained(args.folder, device="cpu")
    images = (
        [str(path) for path in evenly(ImageFiles([args.image_folder]).paths, args.images)]
        if args.image_folder
        else dataset_images(pretrained.cfg, args.images)
    )
    entry = grid_entry(args.folder, pretrained, args.point)
    agreement = export_point(pretrained, args.point, args.format, args.output, images, entry)
    print(f"{agreement}.\nWritten to {args.output}; its README.md says how it is used.")


if __name__ == "__main__":
    with reported():
        main(parse_args())

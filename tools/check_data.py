#!/usr/bin/env python3
"""
Inspect data sets without training, in COCO's format or in one folder per class: what would be
learned from and scored, what is wrong, every image file's header, images that stand in two places,
a sheet of examples. The exit status is 1 if anything cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from mutualnet_det.arguments import add_overrides, check_overrides
from mutualnet_det.config import ConfigError, check_output_dir, load_config
from mutualnet_det.data.classification import image_folder, register_image_folder
from mutualnet_det.data.coco import dataset_files
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.inspection import (
    ClassFolder,
    DatasetFiles,
    Inspected,
    drawable,
    fixed,
    inspect_datasets,
    write_json,
)
from mutualnet_det.errors import reported
from mutualnet_det.evaluation.sheet import truth_sheet
from mutualnet_det.family import Family, family

EXAMPLES = """Examples:

The data sets of a config; sheets of examples go to output/check_data:
    $ mutualnet check-data --config-file cfg.yaml

An annotation file and its image folder:
    $ mutualnet check-data --data train.json images/train --data val.json images/val

Folders with one subfolder of images per class:
    $ mutualnet check-data --folder birds/train --folder birds/val

A copy without the records that cannot be used:
    $ mutualnet check-data --data train.json images/train --fix train_fixed.json
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet check-data",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", metavar="FILE", help="inspect its DATASETS.TRAIN and DATASETS.TEST"
    )
    parser.add_argument(
        "--data",
        nargs=2,
        action="append",
        metavar=("JSON", "IMAGES"),
        help="inspect an annotation file and its image folder; may be given several times",
    )
    parser.add_argument(
        "--folder",
        nargs=1,
        action="append",
        metavar="FOLDER",
        help="inspect a folder with one subfolder of images per class; likewise",
    )
    parser.add_argument("--only", metavar="NAME", help="the one data set of the config to inspect")
    parser.add_argument(
        "--output",
        default="output/check_data",
        metavar="FOLDER",
        help="for the sheets of examples (default: output/check_data)",
    )
    parser.add_argument(
        "--decode", action="store_true", help="decode all images, which finds damage inside them"
    )
    parser.add_argument(
        "--fix", metavar="JSON", help="write a copy of one data set without what cannot be used"
    )
    parser.add_argument(
        "--crowds-are-objects",
        action="store_true",
        help="with --fix: make every crowd an object, for masks that were drawn with a brush",
    )
    add_overrides(parser)
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(arguments)
    check_overrides(parser, args)
    if bool(args.config_file) == bool(args.data or args.folder):
        parser.error("give either --config-file, or --data and --folder")
    if args.crowds_are_objects and not args.fix:
        parser.error("--crowds-are-objects needs --fix")
    return args


def main(args: argparse.Namespace) -> None:
    datasets, need_masks = _datasets(args)
    if args.fix and len(datasets) > 1:
        names = ", ".join(files.name for files in datasets)
        raise ConfigError(f"--fix mends one data set, of {names}: name it with --only.")
    if args.fix and Path(args.fix).exists():
        raise DatasetError(f"{args.fix} is there already. Name another file.")
    check_output_dir(args.output)
    setup_logger(name="mutualnet_det")
    inspection = inspect_datasets(datasets, need_masks=need_masks, decode=args.decode)
    print(f"\n{inspection}\n")
    for inspected in inspection.datasets:
        if inspected.summary is not None and inspected.headers:
            print(f"Examples: {_write_sheet(inspected, Path(args.output))}")
    if args.fix:
        content, changes = fixed(inspection.datasets[0], crowds_are_objects=args.crowds_are_objects)
        write_json(args.fix, content)
        print(f"{args.fix} is written:")
        print("\n".join(f"  {change}" for change in changes or ["nothing was to be changed"]))
    elif not inspection.is_sound:
        sys.exit(1)


def _datasets(args: argparse.Namespace) -> tuple[list[DatasetFiles | ClassFolder], bool | None]:
    """The data sets to inspect, and whether masks are used; None: where there are any."""
    if not args.config_file:
        given = [*(args.data or ()), *(args.folder or ())]
        stems = [Path(path).stem for path, *_ in given]
        unique = len(set(stems)) == len(stems)
        names = stems if unique else [path for path, *_ in given]
        return [_declared(name, *files) for name, files in zip(names, given, strict=True)], None
    cfg = load_config(args.config_file, args.opts)
    names = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    if args.only and args.only not in names:
        raise ConfigError(f"--only is {args.only!r}; the config names {', '.join(names)}.")
    chosen = [args.only] if args.only else names
    if family(cfg) is Family.CLASSIFIER:
        return [ClassFolder(name, image_folder(cfg, name)) for name in chosen], None
    return [DatasetFiles(name, *dataset_files(cfg, name)) for name in chosen], cfg.MODEL.MASK_ON


def _declared(name: str, path: str, image_root: str | None = None) -> DatasetFiles | ClassFolder:
    if image_root is not None:
        return DatasetFiles(name, path, image_root)
    register_image_folder(name, path)
    return ClassFolder(name, path)


def _write_sheet(inspected: Inspected, folder: Path) -> Path:
    path = folder / f"{inspected.files.name.replace('/', '_')}.png"
    truth_sheet(*drawable(inspected)).savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    with reported():
        main(parse_args())

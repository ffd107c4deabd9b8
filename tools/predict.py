#!/usr/bin/env python3
"""
Write what a trained model finds on a folder of images, or on a COCO-format set without a ground
truth, as COCO results: boxes, and masks (RLE) and keypoints if the model has them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils.logger import setup_logger

from mutualnet_det.arguments import add_budget, add_model_folder, check_budget
from mutualnet_det.config import check_output_dir
from mutualnet_det.data.image_list import images_of_files, images_of_json
from mutualnet_det.errors import UserError, reported
from mutualnet_det.evaluation.predictions import predict
from mutualnet_det.runtime import BudgetPredictor
from mutualnet_det.runtime.demo import check_finds_objects
from mutualnet_det.runtime.sources import ImageFiles

EXAMPLES = """examples:
  mutualnet predict output/quickstart datasets/shapes/val --gflops 0.1 --output output/found
  mutualnet predict output/coco datasets/coco/test2017 --point 0.5x360 --output output/test \\
      --json datasets/coco/annotations/image_info_test2017.json
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet predict",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_model_folder(parser)
    parser.add_argument("source", metavar="SOURCE", nargs="+", help="images and folders of images")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="COCO-format list of the images in SOURCE, then one folder: it says their ids, and\n"
        "those of the categories by their names; annotations are not needed",
    )
    add_budget(parser)
    parser.add_argument(
        "--output", required=True, help="folder for predictions.json and images.json"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with what an earlier run left in --output"
    )
    parser.add_argument("--device", help="to run on, such as cpu; default: MODEL.DEVICE")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(arguments)
    check_budget(parser, args)
    if args.json is not None and len(args.source) != 1:
        parser.error("--json counts file names from one folder, SOURCE")
    return args


def main(args: argparse.Namespace) -> None:
    setup_logger(name="mutualnet_det")
    if args.json is None:
        images = images_of_files(ImageFiles(args.source).paths)
    else:
        images = images_of_json(args.json, args.source[0])
    check_output_dir(args.output)
    predictor = BudgetPredictor.from_pretrained(
        args.folder, args.device, latency_device=args.latency_device
    )
    check_finds_objects(predictor.cfg)
    point, _ = predictor.choose(
        gflops=args.gflops, milliseconds=args.milliseconds, point=args.point, clamp=args.clamp
    )
    summary = predict(predictor, images, point, Path(args.output), resume=args.resume)
    if summary.num_unusable == summary.num_images:
        raise UserError(f"None of {summary.num_images} images could be used.")
    print(summary)


if __name__ == "__main__":
    with reported():
        main(parse_args())

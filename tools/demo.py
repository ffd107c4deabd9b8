#!/usr/bin/env python3
"""
Run a trained model within a budget, or at a deadline, on images, a folder, a video or a camera,
and draw what it finds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext

from detectron2.utils.logger import setup_logger

from mutualnet_det.arguments import add_budget, add_model_folder, check_budget
from mutualnet_det.errors import UserError, reported
from mutualnet_det.runtime import BudgetPredictor, DeadlineController, ImageError
from mutualnet_det.runtime.demo import check_finds_objects, timed
from mutualnet_det.runtime.drawing import MIN_SCORE, caption, draw_detections
from mutualnet_det.runtime.images import rgb_pixels
from mutualnet_det.runtime.sources import (
    ImageFiles,
    PictureFolder,
    VideoFrames,
    VideoWriter,
    open_source,
)

EXAMPLES = """examples:
  mutualnet demo output/quickstart datasets/shapes/val --gflops 0.1 --output output/demo
  mutualnet demo output/quickstart street.mp4 --period 0.04 --output street_found.mp4
  mutualnet demo output/quickstart 0 --period 0.1          camera 0, until Ctrl-C
"""
# Frames per second of a video from a camera without --period.
CAMERA_RATE = 10.0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet demo",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add_model_folder(parser)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="images and folders of images, or one video, or the number of a camera",
    )
    budget = add_budget(parser)
    budget.add_argument(
        "--period",
        type=float,
        metavar="SECONDS",
        help="deadline that resizing, the network and its masks have to hold for each image;\n"
        "reading it and drawing come on top",
    )
    parser.add_argument(
        "--output", help="where to draw: a folder for images, an .mp4 or .avi file for a video"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that are there")
    parser.add_argument(
        "--min-score", type=float, default=MIN_SCORE, help="of what is drawn (default: %(default)s)"
    )
    parser.add_argument("--device", help="to run on, such as cpu; default: MODEL.DEVICE")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(arguments)
    check_budget(parser, args)
    return args


def open_output(
    args: argparse.Namespace, source: ImageFiles | VideoFrames
) -> PictureFolder | VideoWriter | None:
    if args.output is None:
        return None
    if not source.is_stream:
        return PictureFolder(args.output, source, overwrite=args.overwrite)
    rate = source.frame_rate or (1 / args.period if args.period else CAMERA_RATE)
    return VideoWriter(args.output, rate, source=args.source[0], overwrite=args.overwrite)


def known_device(predictor: BudgetPredictor) -> str | None:
    """The device to begin with: a deadline controller learns how much another one differs."""
    devices = predictor.table.devices
    here = predictor.latency_device
    return here if here in devices else next(iter(devices), None)


def main(args: argparse.Namespace) -> None:
    setup_logger(name="mutualnet_det")
    source = open_source(args.source)
    output = open_output(args, source)
    predictor = BudgetPredictor.from_pretrained(
        args.folder, args.device, latency_device=args.latency_device
    )
    check_finds_objects(predictor.cfg)
    controller = None
    if args.period is not None:
        controller = DeadlineController(
            predictor.table, args.period, device=known_device(predictor)
        )
    with closing(output) if output is not None else nullcontext():
        count, bad = run(args, source, predictor, controller, output)
    if controller is not None:
        print(controller.report())
    what = "frames" if isinstance(source, VideoFrames) else "images"
    if count and bad == count:
        raise UserError(f"None of {count} {what} could be used.")
    print(f"{count - bad} of {count} {what} done" + (f", in {args.output}." if output else "."))


def run(
    args: argparse.Namespace,
    source: ImageFiles | VideoFrames,
    predictor: BudgetPredictor,
    controller: DeadlineController | None,
    output: PictureFolder | VideoWriter | None,
) -> tuple[int, int]:
    """Find, tell and draw until Ctrl-C; how many images came, and how many were of no use."""
    names = predictor.table.classes
    budget = {"gflops": args.gflops, "milliseconds": args.milliseconds}
    shown_budget = budget if controller is None else {"milliseconds": 1e3 * args.period}
    count, bad, told = 0, 0, -math.inf
    try:
        for name, image in source:
            count += 1
            try:
                image = rgb_pixels(image, name, predictor.max_pixels)
            except ImageError as error:
                print(f"error: {error}", file=sys.stderr)
                bad += 1
                continue
            if controller is None:
                prediction, seconds = timed(
                    predictor, image, **budget, point=args.point, clamp=args.clamp
                )
            else:
                with controller.frame() as point:
                    prediction, seconds = timed(predictor, image, point=point)
            text = caption(prediction, seconds, **shown_budget)
            # Of a stream, once a second is enough.
            if not source.is_stream or time.monotonic() - told >= 1:
                told = time.monotonic()
                objects = int((prediction.instances.scores >= args.min_score).sum())
                plural = "" if objects == 1 else "s"
                print(f"{name}: {', '.join(text)}, {objects} object{plural}", flush=True)
            if output is not None:
                picture = draw_detections(
                    image, prediction.instances, names, min_score=args.min_score, text=text
                )
                output.write(name, picture)
    except KeyboardInterrupt:
        print("Stopped.")
    return count, bad


if __name__ == "__main__":
    with reported():
        main(parse_args())

#!/usr/bin/env python3
"""Serve a web page on which a trained model's budget can be dragged, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence

from mutualnet_det.arguments import add_model_folder
from mutualnet_det.errors import reported
from mutualnet_det.evenly import evenly
from mutualnet_det.runtime import BudgetPredictor
from mutualnet_det.runtime.demo import check_finds_objects, example_images
from mutualnet_det.runtime.drawing import MIN_SCORE
from mutualnet_det.runtime.page import served
from mutualnet_det.runtime.sources import ImageFiles

NUM_EXAMPLES = 6


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mutualnet serve", description=__doc__)
    add_model_folder(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="default: %(default)s, this machine alone"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    parser.add_argument(
        "--max-upload-mb", type=float, default=10, metavar="MB", help="default: %(default)s"
    )
    parser.add_argument(
        "--examples", metavar="FOLDER", help="with images; default: the config's test set"
    )
    parser.add_argument(
        "--min-score", type=float, default=MIN_SCORE, help="of what is drawn (default: %(default)s)"
    )
    parser.add_argument("--device", help="to run on, such as cpu; default: MODEL.DEVICE")
    parser.add_argument(
        "--latency-device", metavar="NAME", help="of the query table; default: the one it runs on"
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    predictor = BudgetPredictor.from_pretrained(
        args.folder, args.device, latency_device=args.latency_device
    )
    check_finds_objects(predictor.cfg)
    if args.examples:
        examples = evenly(ImageFiles([args.examples]).paths, NUM_EXAMPLES)
    else:
        examples = example_images(predictor.cfg, NUM_EXAMPLES)
    # What ends a service ends it as cleanly as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with served(
            predictor,
            examples,
            host=args.host,
            port=args.port,
            max_upload_mb=args.max_upload_mb,
            min_score=args.min_score,
        ) as url:
            print(f"Serving {args.folder} at {url} until Ctrl-C.", flush=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        print("Stopped.")


if __name__ == "__main__":
    with reported():
        main(parse_args())

#!/usr/bin/env python3
"""
Measure latency and peak memory of every operating point on the device at hand.

Of the folder of an evaluated model: the device joins its grid and its query table, or takes its own
place there; AP is not evaluated again. Of a config, with --config-file: prints only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from detectron2.utils.logger import setup_logger

from mutualnet_det.config import load_config
from mutualnet_det.errors import reported
from mutualnet_det.evaluation.profile import profile_config, profile_folder, profiling_images
from mutualnet_det.runtime.pretrained import check_device

EXAMPLES = """Examples:

Add this machine's CPU to a model that was evaluated elsewhere:
    $ mutualnet profile output/quickstart --device cpu

What a config's points take with 20 detections each, whatever the weights find:
    $ mutualnet profile --config-file mutual_maskrcnn_mbv2 \\
        --image-folder photos --detections 20
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet profile",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="FOLDER | KEY VALUE",
        help="OUTPUT_DIR of a training and its evaluation; or overrides of the --config-file",
    )
    parser.add_argument("--device", help="such as cpu or cuda:1; default: the config's")
    parser.add_argument(
        "--name",
        help="of the device in the tables; default: what the machine calls it, which "
        "BudgetPredictor looks for",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=20,
        metavar="N",
        help="forwards timed at each point, on as many images as there are (default: 20)",
    )
    parser.add_argument(
        "--image-folder", metavar="DIR", help="take images from here instead of DATASETS.TEST"
    )
    parser.add_argument("--config-file", metavar="FILE", help="measure the points of a config")
    parser.add_argument(
        "--detections",
        type=int,
        metavar="N",
        help="of a config: give the heads behind the boxes exactly N detections at every point",
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Arguments of the tool; either ``folder`` or ``config_file`` is given."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    args.folder, args.opts = None, args.words
    if args.config_file:
        if args.name is not None:
            parser.error("--name goes with a folder: of a config nothing is written")
    elif len(args.words) != 1:
        parser.error("give the folder of an evaluated model, or a --config-file")
    else:
        (args.folder,), args.opts = args.words, []
        if args.detections is not None:
            parser.error(
                "--detections goes with --config-file: the model would find another number, so the "
                "latencies would not be its own"
            )
    if args.images < 1:
        parser.error(f"--images must be at least 1, got {args.images}")
    if args.detections is not None and args.detections < 0:
        parser.error(f"--detections must be at least 0, got {args.detections}")
    return args


def main(args: argparse.Namespace) -> None:
    setup_logger(name="mutualnet_det")
    if args.folder:
        profile = profile_folder(
            args.folder,
            args.device,
            name=args.name,
            image_folder=args.image_folder,
            num_images=args.images,
        )
        print(f"\n{profile}\n\nAdded to the tables in {args.folder}.")
        return
    if args.device:
        check_device(args.device, "--device")
    overrides = ["MODEL.DEVICE", args.device] if args.device else []
    cfg = load_config(args.config_file, [*args.opts, *overrides])
    images = profiling_images(cfg, args.image_folder, args.images)
    profile = profile_config(cfg, images, args.images, detections=args.detections)
    print(f"\n{profile}")


if __name__ == "__main__":
    with reported():
        main(parse_args())

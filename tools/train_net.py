#!/usr/bin/env python3
"""
Train a network that runs at any width and resolution, or evaluate one operating point of it: what
the config describes, a detector, a segmentor or a classifier.

Used like Detectron2's own train_net.py: --config-file, --resume, --eval-only, --num-gpus and
KEY VALUE overrides.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mutualnet_det.arguments import training_parser
from mutualnet_det.engine import run


def build_parser() -> argparse.ArgumentParser:
    return training_parser("mutualnet train", __doc__)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    run(args)


if __name__ == "__main__":
    main(parse_args())

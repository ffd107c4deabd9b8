#!/usr/bin/env python3
"""
Train a classification network that runs at any width and resolution: a detector's backbone.

The same as `mutualnet train`, under the name of what a detector's training starts from: the config
says what is trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mutualnet_det.arguments import training_parser
from mutualnet_det.engine import run


def build_parser() -> argparse.ArgumentParser:
    return training_parser("mutualnet pretrain", __doc__)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    run(args)


if __name__ == "__main__":
    main(parse_args())

#!/usr/bin/env python3
"""Measure what an adjustable width costs in inference: slimmable layers, switching the width."""

from __future__ import annotations

import argparse

import torch
from detectron2.utils.logger import setup_logger

from mutualnet_det.config import load_config
from mutualnet_det.data.check import check_datasets
from mutualnet_det.engine.benchmark import compare_inference, compare_switching
from mutualnet_det.errors import reported
from mutualnet_det.evaluation.comparison import comparison_table
from mutualnet_det.runtime.device import device_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default="configs/quickstart_shapes.yaml", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds of each comparison")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    setup_logger(name="mutualnet_det")
    check_datasets(cfg)
    found = [*compare_inference(cfg, args.rounds), *compare_switching(cfg, args.rounds)]
    print(f"Medians of {args.rounds} rounds on {device_name(torch.device(cfg.MODEL.DEVICE))}")
    print(comparison_table(found))


if __name__ == "__main__":
    with reported():
        main()

#!/usr/bin/env python3
"""Measure a training step: its parts, its memory, and against plain and naive training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from mutualnet_det.errors import reported
from mutualnet_det.lab.bench.arguments import benchmark_config, benchmark_parser, parse_benchmark
from mutualnet_det.lab.bench.training import measure_training
from mutualnet_det.runtime.device import device_name


def build_parser() -> argparse.ArgumentParser:
    return benchmark_parser("mutualnet benchmark-training", __doc__)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return parse_benchmark(build_parser(), arguments)


def main(args: argparse.Namespace) -> None:
    cfg = benchmark_config(args)
    measurements = measure_training(cfg, args.rounds)
    print(f"Medians of {args.rounds} steps on {device_name(torch.device(cfg.MODEL.DEVICE))}")
    print(measurements)


if __name__ == "__main__":
    with reported():
        main(parse_args())

#!/usr/bin/env python3
"""Measure weights channels-last against contiguous ones, and bfloat16 against float32."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from mutualnet_det.errors import reported
from mutualnet_det.lab.bench.arguments import benchmark_config, benchmark_parser, parse_benchmark
from mutualnet_det.lab.bench.layouts import compare_layouts
from mutualnet_det.lab.bench.pairs import timings_table
from mutualnet_det.runtime.device import device_name


def build_parser() -> argparse.ArgumentParser:
    return benchmark_parser("mutualnet benchmark-layouts", __doc__)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return parse_benchmark(build_parser(), arguments)


def main(args: argparse.Namespace) -> None:
    cfg = benchmark_config(args)
    pairs = compare_layouts(cfg, args.rounds)
    print(f"Medians of {args.rounds} rounds on {device_name(torch.device(cfg.MODEL.DEVICE))}")
    print(timings_table(pairs))


if __name__ == "__main__":
    with reported():
        main(parse_args())

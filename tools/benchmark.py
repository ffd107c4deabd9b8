#!/usr/bin/env python3
"""Measure what an adjustable width costs in inference: slimmable layers, switching the width."""

from __future__ import annotations

import torch

from mutualnet_det.errors import reported
from mutualnet_det.lab.bench.arguments import parse_benchmark_arguments
from mutualnet_det.lab.bench.layers import compare_inference, compare_switching
from mutualnet_det.lab.bench.pairs import comparison_table
from mutualnet_det.runtime.device import device_name


def main() -> None:
    cfg, rounds = parse_benchmark_arguments(__doc__)
    found = [*compare_inference(cfg, rounds), *compare_switching(cfg, rounds)]
    print(f"Medians of {rounds} rounds on {device_name(torch.device(cfg.MODEL.DEVICE))}")
    print(comparison_table(found))


if __name__ == "__main__":
    with reported():
        main()

#!/usr/bin/env python3
"""
Measure a training step: its parts, its memory, and against plain and naive training of the same.
"""

from __future__ import annotations

import torch

from mutualnet_det.errors import reported
from mutualnet_det.lab.bench.arguments import parse_benchmark_arguments
from mutualnet_det.lab.bench.training import measure_training
from mutualnet_det.runtime.device import device_name


def main() -> None:
    cfg, rounds = parse_benchmark_arguments(__doc__)
    found = measure_training(cfg, rounds)
    print(f"Medians of {rounds} steps on {device_name(torch.device(cfg.MODEL.DEVICE))}")
    print(found)


if __name__ == "__main__":
    with reported():
        main()

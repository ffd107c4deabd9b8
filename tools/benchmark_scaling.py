#!/usr/bin/env python3
r"""
The scaling of training: measured with some processes on this machine, predicted for more GPUs.

    $ mutualnet benchmark-scaling --config-file quickstart_shapes --processes 1 2 4
    $ mutualnet benchmark-scaling --config-file mutual_maskrcnn_r50 --step-ms 400 \
          --gpus 8 --machines 1 8
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from mutualnet_det.arguments import parse_list_option
from mutualnet_det.config import load_config
from mutualnet_det.errors import reported
from mutualnet_det.lab.bench.scaling import Cluster, Link, Messages, measure, predict, scaling_table
from mutualnet_det.runtime.device import hardware_name


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet benchmark-scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--processes", nargs="+", help="to measure here")
    parser.add_argument("--steps", type=int, default=8, help="that are timed; default: 8")
    parser.add_argument("--step-ms", type=float, help="of one GPU alone: predict with it")
    parser.add_argument("--gpus", type=int, default=8, help="of a machine; default: 8")
    parser.add_argument("--machines", nargs="+", default=["1", "8"], help="default: 1 8")
    for name, latency, bandwidth in (("local", 3.0, 200.0), ("network", 15.0, 10.0)):
        parser.add_argument(
            f"--{name}-latency-us", type=float, default=latency, help=f"default: {latency:g}"
        )
        parser.add_argument(
            f"--{name}-gb-per-s", type=float, default=bandwidth, help=f"default: {bandwidth:g}"
        )
    parser.add_argument(
        "--overhead-us", type=float, default=20.0, help="of each reduction; default: 20"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(arguments)
    for name in ("processes", "machines"):
        parse_list_option(parser, args, name, int)
    return args


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    messages = Messages.of(cfg)
    print(
        f"Reduced in a step: {messages.gradients / 1e6:.1f} MB of gradients at once, "
        f"{sum(messages.statistics) / 1e6:.2f} MB of statistics in {len(messages.statistics)} parts"
    )
    if args.processes:
        costs = [measure(cfg, count, args.steps) for count in args.processes]
        print(f"\nMeasured on {hardware_name(torch.device(cfg.MODEL.DEVICE))}")
        alone = [cost for cost in costs if cost.processes == 1]
        alone = alone or [measure(cfg, 1, args.steps)]
        print(scaling_table(costs, alone[0].step))
    if args.step_ms:
        local = Link(args.local_latency_us / 1e6, args.local_gb_per_s * 1e9)
        network = Link(args.network_latency_us / 1e6, args.network_gb_per_s * 1e9)
        clusters = [
            Cluster(count, args.gpus, local, network, args.overhead_us / 1e6)
            for count in args.machines
        ]
        costs = [predict(args.step_ms / 1000, messages, cluster) for cluster in clusters]
        print(f"\nPredicted from {args.step_ms:g} ms of one GPU alone")
        print(scaling_table(costs, args.step_ms / 1000))


if __name__ == "__main__":
    with reported():
        main(parse_args())

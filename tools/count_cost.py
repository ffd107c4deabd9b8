#!/usr/bin/env python3
"""
Print the GFLOPs of a config's grid, part by part, and what each scope spans; of a classifier its
MFLOPs. Needs no data.
"""

from __future__ import annotations

import argparse

from tabulate import tabulate

from mutualnet_det.config import is_classification, load_config
from mutualnet_det.errors import reported
from mutualnet_det.evaluation.scopes import grid_costs, scope_spans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        default=(480, 640),
        metavar=("HEIGHT", "WIDTH"),
        help="of an image before it is resized, in px (default: 480 640)",
    )
    parser.add_argument(
        "--detections", type=float, default=10, help="per image, for the mask head (default: 10)"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE overrides of the config")
    args = parser.parse_args()
    cfg = load_config(args.config_file, args.opts)
    size = tuple(args.image_size)
    costs = grid_costs(cfg, size)
    if is_classification(cfg):
        rows = [(p, 1e3 * c.total(0), sum(c.parameters.values())) for p, c in costs.items()]
        print(tabulate(rows, ("point", "MFLOPs", "parameters"), floatfmt=".1f"))
        return
    rows = [
        (point, cost.total(args.detections), *cost.by_part(args.detections).values())
        for point, cost in costs.items()
    ]
    first = next(iter(costs.values()))
    counted = f"GFLOPs at scope {cfg.MUTUALNET.SCOPE!r}"
    if first.num_proposals:
        counted += f", {first.num_proposals} proposals"
    if first.gflops_per_detection:
        counted += f", {args.detections:g} detections"
    print(f"{counted}, on an image of {size[1]} x {size[0]} px\n")
    print(tabulate(rows, ("point", "total", *first.by_part(0)), floatfmt=".3f"))
    print("\nWhat each scope spans over this grid:")
    for span in scope_spans(cfg, size, args.detections):
        print(span)


if __name__ == "__main__":
    with reported():
        main()

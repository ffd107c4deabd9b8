#!/usr/bin/env python3
"""Print the GFLOPs of a config's grid, part by part, and what each scope spans. Needs no data."""

from __future__ import annotations

import argparse

from tabulate import tabulate

from mutualnet_det.config import load_config
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
    rows = [
        (point, cost.total(args.detections), *cost.by_part(args.detections).values())
        for point, cost in costs.items()
    ]
    parts = next(iter(costs.values())).by_part(0)
    print(
        f"GFLOPs at scope {cfg.MUTUALNET.SCOPE!r}, {cfg.MODEL.RPN.POST_NMS_TOPK_TEST} proposals, "
    )
    print(f"{args.detections:g} detections, on an image of {size[1]} x {size[0]} px\n")
    print(tabulate(rows, ("point", "total", *parts), floatfmt=".3f"))
    print("\nWhat each scope spans over this grid:")
    for span in scope_spans(cfg, size, args.detections):
        print(span)


if __name__ == "__main__":
    with reported():
        main()

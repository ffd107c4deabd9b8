#!/usr/bin/env python3
"""
Make a report of one or several evaluated models: one HTML file that any browser opens, without a
network.

A FOLDER is what mutualnet evaluate wrote: OUTPUT_DIR, or its grid folder. The curves of several are
laid over one another.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mutualnet_det.errors import reported
from mutualnet_det.evaluation.report import write_report


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument(
        "--output", default="report.html", metavar="FILE", help="default: report.html"
    )
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the runs (default: those of the folders)"
    )
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def main(args: argparse.Namespace) -> None:
    size = write_report(args.folders, args.output, args.names)
    print(f"Written to {args.output}, {size / 1e6:.1f} MB.")


if __name__ == "__main__":
    with reported():
        main(parse_args())

#!/usr/bin/env python3
"""
Make a report of one or several evaluated models: one HTML file that any browser opens, without a
network.

A FOLDER is what tools/eval_grid.py wrote: OUTPUT_DIR, or its grid folder. The curves of several are
laid over one another.
"""

from __future__ import annotations

import argparse

from mutualnet_det.errors import reported
from mutualnet_det.evaluation.report import write_report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER")
    parser.add_argument(
        "--output", default="report.html", metavar="FILE", help="default: report.html"
    )
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the runs (default: those of the folders)"
    )
    args = parser.parse_args()
    size = write_report(args.folders, args.output, args.names)
    print(f"Written to {args.output}, {size / 1e6:.1f} MB.")


if __name__ == "__main__":
    with reported():
        main()

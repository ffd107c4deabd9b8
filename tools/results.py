#!/usr/bin/env python3
"""
Keep the published results: record one, fill the pages that show them, sum up the comparisons.

A result is a folder results/NAME. Write the commands that make it into its command.sh; `record`
runs them in the current folder and keeps what they gave, with the commit, the machine, the versions
and the seeds. A result that was recorded once is repeated by its name alone. `refresh` fills the
blocks of README.md that are files of results/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mutualnet_det.errors import reported
from mutualnet_det.files import replacing
from mutualnet_det.lab.comparison import effects_table, promises_table
from mutualnet_det.lab.comparison.bootstrap import COMPARED
from mutualnet_det.lab.included import with_includes
from mutualnet_det.lab.recording import record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"


def refresh() -> None:
    page = ROOT / "README.md"
    text = page.read_text(encoding="utf-8")
    filled = with_includes(text, ROOT)
    if filled != text:
        with replacing(page) as file:
            file.write(filled)


def promises(args: argparse.Namespace) -> None:
    columns = {}
    for entry in args.comparisons:
        title, _, place = entry.partition("=")
        name, _, independent = place.partition(":")
        columns[title] = (RESULTS / name / "comparison.csv", independent or "independent")
    print(promises_table(columns), end="")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser(
        "record", help="run results/NAME/command.sh and keep its results"
    )
    recorder.add_argument("name", metavar="NAME", help="the folder below results/")
    recorder.add_argument(
        "--keep",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files that the commands write; `printed`: what they print. "
        "Default: those of the last record, or what is printed",
    )
    recorder.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N")
    recorder.add_argument("--note", help="what readers must know of how it was measured")
    recorder.add_argument(
        "--done-at",
        metavar="COMMIT",
        help="the commands were run already, at this commit: keep their files alone",
    )
    summary = commands.add_parser("promises", help="what the comparisons say of MutualNet's claims")
    summary.add_argument(
        "comparisons",
        nargs="+",
        metavar="TITLE=NAME[:METHOD]",
        help="a column's title, the result's name, and the method trained alone (independent)",
    )
    effects = commands.add_parser("effects", help="what each choice of a study adds")
    effects.add_argument("csv", type=Path, metavar="COMPARISON.CSV")
    effects.add_argument("--kind", choices=COMPARED, default="box")
    commands.add_parser("refresh", help="fill the blocks of README.md")
    args = parser.parse_args()
    if args.command == "promises":
        promises(args)
        return
    if args.command == "effects":
        print(effects_table(args.csv, args.kind), end="")
        return
    if args.command == "record":
        record(
            RESULTS / args.name,
            keep=args.keep,
            seeds=args.seeds,
            note=args.note,
            done_at=args.done_at,
        )
    refresh()


if __name__ == "__main__":
    with reported():
        main()

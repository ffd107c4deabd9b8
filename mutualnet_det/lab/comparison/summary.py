"""Short tables for pages from what comparisons wrote: promises kept, effects of choices."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from .claims import check_claims, plus_minus
from .table import LEVEL

_NUMBERS = ("mean", "spread", "difference", "difference_spread", "p_value")
_NOT_KNOWN = "not known"


def promises_table(comparisons: Mapping[str, tuple[Path, str]]) -> str:
    """
    A Markdown table with a row for each claim and kind of score, and a column for each comparison.

    Args:
        comparisons: by the title of its column, the ``comparison.csv`` of each, and the method that
            trains networks alone; the others are "mutual" and "us_net".
    """
    columns = [_verdicts(path, independent) for path, independent in comparisons.values()]
    claims = list(dict.fromkeys(claim for column in columns for claim in column))
    rows = [
        [text, kind, *(column.get((text, kind), _NOT_KNOWN) for column in columns)]
        for text, kind in claims
    ]
    headers = ["promise", "AP", *comparisons]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True) + "\n"


def effects_table(path: Path, kind: str) -> str:
    """
    A Markdown table with the reference's scores at each point, and what every other method adds.

    Args:
        path: a ``comparison.csv``.
        kind: "box", "mask" or "class".
    """
    scores = [score for score in _read_scores(path) if score["kind"] == kind]
    by_cell = {(score["method"], score["point"]): score for score in scores}
    points = list(dict.fromkeys(score["point"] for score in scores))
    titles = {s["method"]: ": ".join(filter(None, (s["study"], s["label"]))) for s in scores}
    reference = scores[0]["method"]
    rows = [
        [
            title,
            *(
                _effect(by_cell.get((method, point)), absolute=method == reference)
                for point in points
            ),
        ]
        for method, title in titles.items()
    ]
    return tabulate(rows, ["", *points], tablefmt="github", disable_numparse=True) + "\n"


def _effect(score: dict[str, Any] | None, *, absolute: bool) -> str:
    """A score, or its difference from the reference's; bold where it is significant."""
    if score is None:
        return ""
    if absolute:
        return f"{score['mean']:.1f}{plus_minus(score['spread'])}"
    difference = f"{score['difference']:+.1f}{plus_minus(score['difference_spread'])}"
    return f"**{difference}**" if _is_significant(score) else difference


def _is_significant(score: dict[str, Any]) -> bool:
    return score["p_value"] is not None and score["p_value"] < LEVEL


def _verdicts(path: Path, independent: str) -> dict[tuple[str, str], str]:
    """The verdict on each claim, its smallest and largest margin, and how many are significant."""
    scores = _read_scores(path)
    roles = {"mutual": "mutual", "us_net": "us_net", "independent": independent}
    seeds = {seed for score in scores for seed in score["by_seed"]}
    claims = check_claims({"scores": scores, "plan": {"seeds": sorted(seeds)}}, roles)
    by_cell = {(s["method"], s["point"], s["kind"]): s for s in scores}
    verdicts = {}
    for claim in claims:
        pairs = [
            (
                by_cell["mutual", point, claim["kind"]],
                by_cell[claim["against"], point, claim["kind"]],
            )
            for point in claim["points"]
        ]
        verdicts[claim["claim"], claim["kind"]] = _cell(claim["holds"], pairs)
    return verdicts


def _cell(holds: bool | None, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    if holds is None:
        return _NOT_KNOWN
    margins = sorted(mutual["mean"] - other["mean"] for mutual, other in pairs)
    ends = dict.fromkeys(f"{margin:+.1f}" for margin in (margins[0], margins[-1]))
    significant = sum(_is_significant(other) for _, other in pairs)
    verdict = "holds" if holds else "**fails**"
    return f"{verdict}: {' to '.join(ends)}; {significant} of {len(pairs)} significant"


def _read_scores(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``comparison.csv``, as a comparison's record has its scores."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {
                **{key: line[key] for key in ("method", "label", "study", "point", "kind")},
                **{key: _number(line[key]) for key in _NUMBERS},
                "by_seed": dict(part.split(": ") for part in line["by_seed"].split("; ")),
            }
            for line in csv.DictReader(file)
        ]


def _number(text: str) -> float | None:
    return float(text) if text else None

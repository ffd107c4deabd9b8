"""The record of a comparison as text, Markdown and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from ...evaluation.scoring import KINDS
from ...runtime import frontier
from ...slimmable import OperatingPoint
from .claims import claims_text, over_seeds, plus_minus

# Differences with a p-value below this are marked.
LEVEL = 0.05
_CSV_COLUMNS = (
    *("method", "label", "study", "point", "width", "resolution", "gflops", "kind", "mean"),
    *("spread", "by_seed", "reference", "difference", "difference_spread", "p_value"),
    *("low", "high"),
)


def comparison_text(record: Mapping[str, Any], *, markdown: bool = False) -> str:
    """Write all tables of a comparison, and whether the claims hold."""
    parts = [_heading(record)]
    kinds = list(dict.fromkeys(score["kind"] for score in record["scores"]))
    reference = record["methods"][0]
    for study, methods in _groups(record["methods"]):
        shown = [reference, *methods] if study else methods
        for kind in kinds:
            title = f"{_name(kind)}, {over_seeds(record)}"
            title = ": ".join(filter(None, (study, title)))
            parts.append(_section(title, _score_table(record, shown, kind, markdown), markdown))
        for kind in kinds:
            others = [method for method in methods if method is not reference]
            title = (
                f"{_name(kind)} minus that of {reference['label']}, {over_seeds(record)}, and "
                f"95 % interval over images{_legend(record, markdown)}"
            )
            title = ": ".join(filter(None, (study, title)))
            table = _difference_table(record, others, kind, markdown)
            if table:
                parts.append(_section(title, table, markdown))
        for kind in kinds:
            title = f"{_name(kind)} of the best point that a budget of GFLOPs per image allows"
            title = ": ".join(filter(None, (study, title)))
            parts.append(_section(title, _budget_table(record, shown, kind, markdown), markdown))
    parts.append(_section("Trainings", _run_table(record, markdown), markdown))
    if record["claims"]:
        text = claims_text(record["claims"])
        if markdown:
            text = "\n".join(f"- {line}" for line in text.split("\n"))
        parts.append(_section("Claims", text, markdown))
    return "\n\n".join(parts) + "\n"


def _heading(record: Mapping[str, Any]) -> str:
    data = record["data"]
    places = dict.fromkeys(
        f"{run['device']}, {run['runs_at_a_time']} at a time" for run in record["runs"]
    )
    seeds = sorted({run["seed"] for run in record["runs"]})
    images = f"{data['num_images']} images of {data['dataset']}" if data else "no images yet"
    took = "" if record["hours"] is None else f", about {record['hours']:.1f} hours"
    left = "" if record["complete"] else " NOT COMPLETE: some runs are missing."
    return (
        f"{record['name']}: {len(record['runs'])} trainings, seeds "
        f"{', '.join(map(str, seeds)) or 'none'}, evaluated on {images}; "
        f"run on {' and on '.join(places) or 'no machine'}{took}.{left}"
    )


def _name(kind: str) -> str:
    label = KINDS[kind].label
    return label[0].upper() + label[1:]


def _section(title: str, text: str, markdown: bool) -> str:
    return f"### {title}\n\n{text}" if markdown else f"{title}\n{text}"


def _groups(methods: Sequence[dict]) -> list[tuple[str, list[dict]]]:
    """Methods by their study, in order."""
    groups: dict[str, list[dict]] = {}
    for method in methods:
        groups.setdefault(method["study"], []).append(method)
    return list(groups.items())


def _by_cell(items: Sequence[dict[str, Any]], kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    return {(item["method"], item["point"]): item for item in items if item["kind"] == kind}


def _score_table(record: Mapping, methods: Sequence[dict], kind: str, markdown: bool) -> str:
    cells = _by_cell(record["scores"], kind)
    rows = [
        [point, *(_score(cells.get((method["name"], point))) for method in methods)]
        for point in record["points"]
    ]
    return _table(["point", *(method["label"] for method in methods)], rows, markdown)


def _difference_table(record: Mapping, methods: Sequence[dict], kind: str, markdown: bool) -> str:
    cells = _by_cell(record["differences"], kind)
    methods = [method for method in methods if any(name == method["name"] for name, _ in cells)]
    names = [method["name"] for method in methods]
    rows = [
        [point, *(_difference(cells.get((name, point)), markdown) for name in names)]
        for point in record["points"]
        if any((name, point) in cells for name in names)
    ]
    labels = [method["label"] for method in methods]
    return _table(["point", *labels], rows, markdown) if rows else ""


def _budget_table(record: Mapping, methods: Sequence[dict], kind: str, markdown: bool) -> str:
    """
    A row for each budget that allows some method a better point than less does, rounded up to two
    digits: a point costs each method something else, as it finds more or fewer objects, and a
    budget between these costs tells nothing of the methods.
    """
    frontiers = [
        frontier(
            [s for s in record["scores"] if (s["method"], s["kind"]) == (method["name"], kind)],
            lambda score: score["gflops"],
            lambda score: score["mean"],
        )
        for method in methods
    ]
    budgets = {_rounded_up(score["gflops"]) for best in frontiers for score in best}
    rows = [
        [f"{budget:g}", *(_best_within(best, budget) for best in frontiers)]
        for budget in sorted(budgets)
    ]
    return _table(["budget", *(method["label"] for method in methods)], rows, markdown)


def _rounded_up(budget: float) -> float:
    """Round up to two digits."""
    digits = 1 - math.floor(math.log10(budget))
    return math.ceil(budget * 10**digits) / 10**digits


def _best_within(best: Sequence[dict[str, Any]], budget: float) -> str:
    affordable = [score for score in best if score["gflops"] <= budget]
    return f"{_score(affordable[-1])} ({affordable[-1]['point']})" if affordable else "-"


def _run_table(record: Mapping, markdown: bool) -> str:
    pretraining = record["pretraining"]
    rows = [] if pretraining is None else [_run_row([pretraining])]
    for method in record["methods"]:
        for network in method["networks"] or [""]:
            runs = [
                run
                for run in record["runs"]
                if (run["method"], run["network"]) == (method["name"], network)
            ]
            if runs:
                rows.append(_run_row(runs))
    headers = ["training", "seeds", "steps", "GFLOPs per step", "TFLOPs", "s per step", "minutes"]
    return _table(headers, rows, markdown)


def _run_row(runs: Sequence[Mapping]) -> list[str | int]:
    """A row for runs that differ in the seed alone. A pretraining's compute is not counted."""
    steps, gflops = runs[0]["steps"], runs[0].get("gflops_per_step")
    counted = ["-", "-"] if gflops is None else [f"{gflops:.2f}", f"{gflops * steps / 1000:.2f}"]
    seconds = [run["seconds_per_step"] for run in runs if run["seconds_per_step"]]
    mean = sum(seconds) / len(seconds) if seconds else None
    timed = ["-", "-"] if mean is None else [f"{mean:.3f}", f"{mean * steps / 60:.1f}"]
    return [runs[0]["title"], len(runs), steps, *counted, *timed]


def _table(headers: Sequence[str], rows: Sequence[Sequence], markdown: bool) -> str:
    aligned = ("left", *["right"] * (len(headers) - 1))
    style = "github" if markdown else "simple"
    return tabulate(rows, headers, tablefmt=style, colalign=aligned, disable_numparse=True)


def _score(cell: dict[str, Any] | None) -> str:
    return "-" if cell is None else f"{cell['mean']:.1f}{plus_minus(cell['spread'])}"


def _legend(record: Mapping, markdown: bool) -> str:
    if all(difference["p_value"] is None for difference in record["differences"]):
        return ""
    return f"; {'bold' if markdown else '*'}: p < {LEVEL} in a paired t-test over seeds"


def _difference(cell: dict[str, Any] | None, markdown: bool) -> str:
    if cell is None:
        return "-"
    mean = f"{cell['mean']:+.1f}{plus_minus(cell['spread'])}"
    if cell["p_value"] is not None and cell["p_value"] < LEVEL:
        mean = f"**{mean}**" if markdown else f"* {mean}"
    return f"{mean} [{cell['low']:+.1f}, {cell['high']:+.1f}]"


def comparison_csv(record: Mapping[str, Any]) -> str:
    """A line for each method, operating point and kind of score."""
    differences = {(d["method"], d["point"], d["kind"]): d for d in record["differences"]}
    methods = {method["name"]: method for method in record["methods"]}
    file = io.StringIO()
    writer = csv.DictWriter(file, _CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for score in record["scores"]:
        name, point = score["method"], OperatingPoint.parse(score["point"])
        difference = differences.get((name, score["point"], score["kind"]), {})
        writer.writerow(
            {
                "method": name,
                "label": methods[name]["label"],
                "study": methods[name]["study"],
                "point": score["point"],
                **point._asdict(),
                **{key: score[key] for key in ("gflops", "kind", "mean", "spread")},
                "by_seed": "; ".join(f"{seed}: {ap:.2f}" for seed, ap in score["by_seed"].items()),
                "difference": difference.get("mean"),
                "difference_spread": difference.get("spread"),
                **{key: difference.get(key) for key in ("reference", "p_value", "low", "high")},
            }
        )
    return file.getvalue()

"""Making a report: what grids hold, put into a page that needs nothing else."""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import itertools
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.colors import to_hex

from ...config import flattened
from ...errors import UserError
from ...runtime import QueryTableError
from ...runtime.query_table import SCORE_LABELS, latency_to_dict
from ..confusion import MIN_IOU, MIN_SCORE, Confusion, confusion_file
from ..figures import COLOURS, LOG_SPAN
from ..files import replacing
from ..results import Grid, GridRow
from ..scoring import KINDS
from .pictures import collect_pictures

# In the order they run; all share one scope.
SCRIPTS = (
    *("dom.js", "model.js", "tables.js", "chart.js", "budget.js", "points.js", "heat.js"),
    *("confusion.js", "classes.js", "pictures.js", "runs.js", "main.js"),
)
# Says what the page may do: run its own script, and load nothing from anywhere.
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
    "script-src 'sha256-{script}'; style-src 'sha256-{style}'"
)
# Config keys that differ between any two runs and tell nothing about them.
NOT_SETTINGS = ("OUTPUT_DIR", "MODEL.WEIGHTS", "VERSION")


class ReportError(UserError, ValueError):
    """Folders that no report can be made of."""


def write_report(
    folders: Sequence[str | Path], output: str | Path, names: Sequence[str] | None = None
) -> int:
    """
    Write the report of several evaluations; what is at ``output`` is replaced.

    Args:
        folders: see :func:`build_report`.
        output: a name that ends in .html.

    Returns:
        the size of the file in bytes.

    Raises:
        GridError, ReportError: see :func:`build_report`; also for an output that is no such name or
            cannot be written.
    """
    output = Path(output)
    if output.suffix.lower() not in (".html", ".htm") or output.is_dir():
        raise ReportError(f"The output {output} must be the name of a file that ends in .html.")
    page = build_report(folders, names).encode()
    try:
        with replacing(output, "wb") as file:
            file.write(page)
    except OSError as error:
        raise ReportError(f"The output {output} cannot be written: {error.strerror}.") from error
    return len(page)


def build_report(folders: Sequence[str | Path], names: Sequence[str] | None = None) -> str:
    """
    The report of several evaluations as an HTML page.

    Args:
        folders: what ``evaluate_grid`` wrote, or folders with a ``grid`` in them.
        names: of the runs, one per folder and none twice; by default the folders' names.

    Raises:
        GridError: for a ``grid.json`` that cannot be read.
        ReportError: for a folder without one, grids without a common score, or names that do not
            fit the folders.
    """
    if not folders:
        raise ReportError("A report needs at least one folder with a grid.json.")
    places = [_grid_folder(Path(folder)) for folder in folders]
    names = run_names(places, names)
    grids = [_load(folder) for folder in places]
    _check_comparable(names, grids)
    runs = [_run(*each) for each in zip(names, places, grids, strict=True)]
    data = {
        "made": _time(datetime.datetime.now()),
        "kinds": {
            kind: {"label": KINDS[kind].label, "metrics": _metrics(kind, grids)}
            for kind in KINDS
            if any(kind in grid.kinds for grid in grids)
        },
        "columns": {column: _metric_of(column) for column in SCORE_LABELS},
        "logSpan": LOG_SPAN,
        "confusion": {"score": MIN_SCORE, "iou": MIN_IOU},
        "colours": [to_hex(COLOURS(step / 16)) for step in range(17)],
        "runs": runs,
        "warnings": _warnings(names, grids),
        "settings": _differing_settings(grids),
        "pictures": collect_pictures(places, grids, [run["table"] for run in runs]),
    }
    return _page(f"{', '.join(names)}: AP against cost", data)


# Reading -----------------------------------------------------------------------------------------


def _grid_folder(folder: Path) -> Path:
    for candidate in (folder, folder / "grid"):
        if (candidate / "grid.json").is_file():
            return candidate
    raise ReportError(
        f"There is no grid.json in {folder} or {folder / 'grid'}: expected what "
        "`mutualnet evaluate` writes, once it has finished."
    )


def run_names(folders: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    """The names of runs, by default those of their folders; ReportError if they do not fit."""
    if names is None:
        paths = [folder.resolve() for folder in folders]
        names = [path.parent.name if path.name == "grid" else path.name for path in paths]
    if len(names) != len(folders):
        raise ReportError(
            f"There are {len(folders)} folders and {len(names)} names ({', '.join(names)}): "
            "--names takes one name for each folder, in their order."
        )
    for index, name in enumerate(names):
        if not name.strip():
            raise ReportError(f"The name of {folders[index]} is empty.")
        if name in names[:index]:
            raise ReportError(f"Two runs are named {name!r}: give each its own with --names.")
    return list(names)


def _load(folder: Path) -> Grid:
    path = folder / "grid.json"
    grid = Grid.load(path)
    if not grid.rows:
        raise ReportError(f"{path} has no operating points.")
    needed = ("dataset", "num_images", "weights", "weights_fingerprint", "device", "versions")
    missing = [key for key in (*needed, "config", "timing") if key not in grid.run]
    if missing:
        raise ReportError(f"{path} lacks run.{missing[0]}: evaluate the grid again.")
    try:
        yaml.safe_load(grid.run["config"])
    except yaml.YAMLError as error:
        raise ReportError(f"{path}: run.config is not valid YAML: {error}") from error
    return grid


def _check_comparable(names: Sequence[str], grids: Sequence[Grid]) -> None:
    shared = set(grids[0].kinds).intersection(*(grid.kinds for grid in grids[1:]))
    if not shared:
        of_kind = [
            f"{name}: {', '.join(grid.kinds)}" for name, grid in zip(names, grids, strict=True)
        ]
        raise ReportError(
            "These evaluations share no score, so their curves cannot be laid over one another "
            f"({'; '.join(of_kind)}). Make a report of each."
        )


def _warnings(names: Sequence[str], grids: Sequence[Grid]) -> list[str]:
    datasets = {grid.run["dataset"] for grid in grids}
    if len(datasets) > 1:
        on = [f"{name} on {g.run['dataset']}" for name, g in zip(names, grids, strict=True)]
        return [
            f"These runs are of different data sets ({', '.join(on)}): do not compare their AP."
        ]
    truths = {json.dumps(grid.run.get("identity", {}).get("ground truth")) for grid in grids}
    if len(truths) > 1:
        return [
            "The ground truth of these runs is not the same, though the data set's name is "
            f"({datasets.pop()}): compare their AP with care."
        ]
    return []


def _differing_settings(grids: Sequence[Grid]) -> list[dict[str, Any]]:
    """The config keys in which runs differ, with the value of each run."""
    flat = [_settings(grid) for grid in grids]
    keys = sorted({key for settings in flat for key in settings})
    rows = [{"key": key, "values": [settings.get(key, "") for settings in flat]} for key in keys]
    return [row for row in rows if len(set(row["values"])) > 1 and row["key"] not in NOT_SETTINGS]


def _settings(grid: Grid) -> dict[str, str]:
    config = yaml.safe_load(grid.run["config"])
    return {key: str(value) for key, value in flattened(config).items()}


# As the page reads it ----------------------------------------------------------------------------


def _run(name: str, folder: Path, grid: Grid) -> dict[str, Any]:
    kind = grid.kinds[0]
    has_table = any(row.score(kind) is not None for row in grid.rows)
    try:
        table = grid.query_table() if has_table else None
    except QueryTableError as error:
        raise ReportError(f"{folder / 'grid.json'} gives no query table: {error}") from error
    changed = datetime.datetime.fromtimestamp((folder / "grid.json").stat().st_mtime)
    facts = grid.run
    return {
        "name": name,
        "dataset": facts["dataset"],
        "rows": [{**_row(row), "confusion": _confusion(folder, row)} for row in grid.rows],
        "table": [str(entry.point) for entry in table.entries] if table else [],
        "metric": table.metric if table else None,
        "devices": list(table.devices) if table else [],
        "facts": {
            "Data set": facts["dataset"],
            "Images": facts["num_images"],
            "Objects": facts.get("num_objects"),
            "Operating points": len(grid.rows),
            "Evaluated": _time(changed),
            "Evaluated on": facts["device"],
            "Weights": facts["weights"],
            "Fingerprint": facts["weights_fingerprint"],
            "Time of one image": facts["timing"],
            "Versions": ", ".join(f"{name} {v}" for name, v in facts["versions"].items()),
        },
        "config": facts["config"],
    }


def _row(row: GridRow) -> dict[str, Any]:
    return {
        "point": str(row.point),
        "width": row.point.width,
        "resolution": row.point.resolution,
        "gflops": row.gflops,
        "parameters": sum(row.cost.parameters.values()),
        "detections": row.detections_per_image,
        "latency": latency_to_dict(row.latency),
        "scores": {
            kind: {metric: _finite(row.scores[kind].get(metric)) for metric in row.metrics(kind)}
            for kind in row.kinds
        },
        "classes": {
            kind: {name: _finite(ap) for name, ap in row.scores[kind]["per_class"].items()}
            for kind in row.kinds
            if row.scores[kind].get("per_class")
        },
    }


def _confusion(folder: Path, row: GridRow) -> dict[str, Any] | None:
    """The classes, and the cells (row, column, count) of the matrix that are not 0."""
    path = confusion_file(folder, row.point)
    if not path.exists():
        return None
    try:
        confusion = Confusion.load(path)
    except ValueError as error:
        raise ReportError(f"{path} is no confusion matrix: {error}") from error
    cells = [(*index, count) for index, count in np.ndenumerate(confusion.counts) if count]
    return {"names": confusion.classes, "cells": np.array(cells).tolist()}


def _metrics(kind: str, grids: Sequence[Grid]) -> list[str]:
    """All metrics of a kind that a grid has."""
    known = [grid.rows[0].metrics(kind) for grid in grids if kind in grid.kinds]
    return list(dict.fromkeys(itertools.chain(*known)))


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None


def _metric_of(column: str) -> str:
    """The name on the page of the metric that a query table's column holds, such as "box.AP"."""
    return next(
        f"{kind}.{metric}"
        for kind, of_kind in KINDS.items()
        for name, metric in {**of_kind.columns, **of_kind.coco_columns}.items()
        if name == column
    )


def _time(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M")


# The page ----------------------------------------------------------------------------------------


def _page(title: str, data: dict[str, Any]) -> str:
    folder = resources.files(__package__) / "page"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    # In a script element only "<" could end it or begin a comment; in JSON \u003c is the same.
    content = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    filled = {
        "title": html.escape(title),
        "policy": POLICY.format(script=_digest(script), style=_digest(style)),
        "style": style,
        "data": content,
        "script": script,
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    # In one go: what is filled in may look like a place to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: filled[place[1]], template)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

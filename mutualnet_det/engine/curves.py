"""Curves of trainings, from their metrics.json: losses, where a step's time goes, rate and pace."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import UserError
from ..evaluation.figures import COLOURS, FAINT, INK, style_axes, write_figure
from ..evaluation.report.build import run_names
from .metrics import OTHER, SPLIT
from .sampling import FULL, NARROWEST, RANDOM
from .timing import PARTS

PASS_KINDS = (FULL, NARROWEST, RANDOM)
FORMATS = (".png", ".svg", ".pdf")
# Losses are smoothed over this share of the records, which are drawn behind.
SMOOTHING = 0.05
WARNING = "#ff7f0e"  # time that a faster disk or more loader workers would save

Curve = tuple[np.ndarray, np.ndarray]  # iterations, counted from 1, and values


class MetricsError(UserError, ValueError):
    """Metrics that cannot be read or drawn."""


@dataclass(frozen=True)
class Run:
    """
    Records that a training wrote into its ``metrics.json``.

    Attributes:
        name: what the curves are called.
        records: one for each time that metrics were written, in their order.
    """

    name: str
    records: list[dict[str, Any]]

    def curve(self, key: str) -> Curve:
        """The finite values of ``key``; empty if there are none."""
        points = [
            (record["iteration"] + 1, record[key])
            for record in self.records
            if math.isfinite(record.get(key, math.nan))
        ]
        iterations, values = zip(*points, strict=True) if points else ((), ())
        return np.asarray(iterations), np.asarray(values, dtype=float)

    @property
    def parts(self) -> list[str]:
        """Names of the step's parts whose time was recorded, from first to last."""
        return [part for part in (*PARTS, OTHER) if self.curve(SPLIT + part)[0].size]

    @property
    def split(self) -> dict[str, float]:
        """Mean seconds per step of each part, over the records that have it."""
        return {part: float(self.curve(SPLIT + part)[1].mean()) for part in self.parts}


# Reading -----------------------------------------------------------------------------------------


def read_runs(folders: Sequence[str | Path], names: Sequence[str] | None = None) -> list[Run]:
    """
    Read the ``metrics.json`` of trainings, finished or not.

    Args:
        folders: their OUTPUT_DIRs.
        names: of the runs, one for each folder and none twice; by default the folders' names.

    Raises:
        MetricsError: for a folder without metrics, or metrics that are broken or hold no losses.
        ReportError: for names that do not fit the folders.
    """
    folders = [Path(folder) for folder in folders]
    return [
        Run(name, _read(folder / "metrics.json"))
        for folder, name in zip(folders, run_names(folders, names), strict=True)
    ]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        raise MetricsError(
            f"There is no {path}: expected the OUTPUT_DIR of a training that has written its first "
            "record."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise MetricsError(f"{path} cannot be read: {error}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) and not line.endswith("\n"):
                break  # a training is writing it, or was killed at it; a resume drops it too
            raise MetricsError(
                f"{path}, line {number}, is no JSON ({error}). Remove the line to draw the others."
            ) from error
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), int):
            raise MetricsError(
                f"{path}, line {number}, has no iteration: expected a record as a training of this "
                f"project writes it, found {line.strip()[:60]!r}."
            )
        records.append(record)
    if not any(f"{kind}/total_loss" in record for record in records for kind in PASS_KINDS):
        raise MetricsError(
            f"{path} holds no losses: expected a record with one of "
            f"{', '.join(f'{kind}/total_loss' for kind in PASS_KINDS)}, which a training writes "
            "every few iterations."
        )
    return records


# Drawing -----------------------------------------------------------------------------------------


def write_curves(
    folders: Sequence[str | Path], output: str | Path, names: Sequence[str] | None = None
) -> None:
    """
    Draw trainings into ``output``, in the format of its ending.

    Args:
        folders, names: see :func:`read_runs`.

    Raises:
        MetricsError, ReportError: see :func:`read_runs`; also for another ending, and where
            ``output`` cannot be written.
    """
    output = Path(output)
    if output.suffix not in FORMATS:
        raise MetricsError(f"{output} ends in {output.suffix!r}; expected {', '.join(FORMATS)}.")
    runs = read_runs(folders, names)
    figure = draw_run(runs[0]) if len(runs) == 1 else compare_runs(runs)
    try:
        write_figure(figure, output)
    except OSError as error:
        raise MetricsError(f"{output} cannot be written: {error.strerror}.") from error


def draw_run(run: Run) -> Figure:
    """Draw a training: losses, a step's time, gradient norm, learning rate, pace and memory."""
    figure = _figure(13, 7)
    upper, lower = figure.subfigures(2, 1, height_ratios=(5, 4))
    losses, split = upper.subplots(1, 2)
    losses.set_title(run.name, fontsize=11, color=INK, loc="left")
    _draw_smoothed(losses, "loss", [(kind, run.curve(f"{kind}/total_loss")) for kind in PASS_KINDS])
    losses.legend(frameon=False, fontsize=8.5, handlelength=1.6)
    _draw_split(split, run)
    _draw_rest(lower.subplots(1, 4), [run])
    return figure


def compare_runs(runs: Sequence[Run]) -> Figure:
    """Several trainings: the same, with a panel for the losses of each kind of operating point."""
    figure = _figure(15, 7.5)
    upper, lower = figure.subfigures(2, 1)
    panels = upper.subplots(1, len(PASS_KINDS))
    for axes, kind in zip(panels, PASS_KINDS, strict=True):
        curves = [(run.name, run.curve(f"{kind}/total_loss")) for run in runs]
        _draw_smoothed(axes, f"loss, {kind}", curves)
    panels[0].legend(frameon=False, fontsize=8.5, handlelength=1.6)
    left, right = lower.subfigures(1, 2, width_ratios=(2, 5))
    _draw_bars(left.subplots(), runs)
    _draw_rest(right.subplots(1, 4), runs)
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1, wspace=0.03)
    return figure


def _draw_rest(panels: Sequence[Axes], runs: Sequence[Run]) -> None:
    """The metrics that runs have one curve of."""
    norm, rate, pace, memory = panels

    def curves(key: str) -> list[tuple[str, Curve]]:
        return [(run.name, run.curve(key)) for run in runs]

    _draw_smoothed(norm, "gradient norm", curves("gradient_norm"))
    _draw_lines(rate, "learning rate", curves("lr"))
    _draw_lines(pace, "images/s", curves("images_per_second"))
    _draw_lines(memory, "peak memory (MiB)", curves("peak_memory_mib"))


def _draw_smoothed(axes: Axes, label: str, curves: Sequence[tuple[str, Curve]]) -> None:
    """Smoothed curves before what they are made from."""
    _style(axes, label)
    tops = []
    for index, (name, (iterations, values)) in enumerate(curves):
        if not values.size:
            continue
        colour = _colour(index, len(curves))
        axes.plot(iterations, values, color=colour, alpha=0.25, linewidth=0.9)
        axes.plot(iterations, smoothed(values), color=colour, linewidth=1.8, label=name)
        # A few spikes, as of the first iterations, shall not press the rest together.
        tops.append(np.quantile(values, 0.98))
    _finish(axes, bool(tops))
    if tops:
        axes.set_ylim(top=1.1 * max(tops))


def _draw_split(axes: Axes, run: Run) -> None:
    _style(axes, "seconds per step")
    parts = run.parts
    if parts:
        iterations = sorted({int(i) for part in parts for i in run.curve(SPLIT + part)[0]})
        layers = []
        for part in parts:
            seconds = dict(zip(*run.curve(SPLIT + part), strict=True))
            layers.append([seconds.get(iteration, 0.0) for iteration in iterations])
        colours = [part_colour(part) for part in parts]
        total = sum(run.split.values())
        labels = [f"{_words(part)}  {seconds / total:.0%}" for part, seconds in run.split.items()]
        axes.stackplot(iterations, layers, colors=colours, labels=labels, linewidth=0)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1],
            labels[::-1],
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            fontsize=8.5,
            handlelength=1.0,
        )
    _finish(axes, bool(parts))


def _draw_bars(axes: Axes, runs: Sequence[Run]) -> None:
    _style(axes, "")
    axes.set_xlabel("seconds per step", color=INK)
    axes.grid(visible=False, axis="y")
    parts = [part for part in (*PARTS, OTHER) if any(part in run.parts for run in runs)]
    left = np.zeros(len(runs))
    for part in parts:
        seconds = np.array([run.split.get(part, 0.0) for run in runs])
        colour = part_colour(part)
        axes.barh(range(len(runs)), seconds, 0.6, left, color=colour, label=_words(part))
        left += seconds
    axes.set_yticks(range(len(runs)), [run.name for run in runs])
    axes.invert_yaxis()
    _finish(axes, bool(parts))
    if parts:
        axes.legend(
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=8.5
        )


def _draw_lines(axes: Axes, label: str, curves: Sequence[tuple[str, Curve]]) -> None:
    """Curves on an axis that starts at 0."""
    _style(axes, label)
    for index, (name, curve) in enumerate(curves):
        axes.plot(*curve, color=_colour(index, len(curves)), linewidth=1.8, label=name)
    _finish(axes, any(curve[0].size for _, curve in curves))
    highest = max((values.max() for _, (_, values) in curves if values.size), default=0.0)
    axes.set_ylim(0, 1.1 * highest or 1)


def smoothed(values: np.ndarray) -> np.ndarray:
    """
    Means of each value (N,) and its neighbours, the nearer the heavier.

    At the ends, of the neighbours there are.
    """
    half = min(round(SMOOTHING * len(values)), (len(values) - 1) // 2)
    kernel = np.hanning(2 * half + 3)[1:-1]
    weights = np.convolve(np.ones(len(values)), kernel, "same")
    return np.convolve(values, kernel, "same") / weights


def part_colour(part: str) -> Any:
    """The colour of a part of the step: data stands out, and what has no name stands back."""
    if part == "data":
        return WARNING
    if part == OTHER:
        return "#d9d9d9"
    working = [name for name in PARTS if name != "data"]
    return _colour(working.index(part), len(working))


def _colour(index: int, count: int) -> Any:
    # The bright end of the map does not show on white.
    return COLOURS(0.9 * index / max(count - 1, 1))


def _words(part: str) -> str:
    return part.replace("_", " ")


def _style(axes: Axes, label: str) -> None:
    style_axes(axes)
    axes.set_ylabel(label, color=INK)
    axes.set_xlabel("iteration", color=INK)


def _finish(axes: Axes, drawn: bool) -> None:
    if not drawn:
        axes.text(*(0.5, 0.5, "not recorded"), transform=axes.transAxes, ha="center", color=FAINT)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.margins(x=0.01)

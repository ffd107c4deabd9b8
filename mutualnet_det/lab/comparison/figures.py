"""The papers' figure: the score of every method against GFLOPs, with the spread over seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ...evaluation.figures import scale_cost, style_axes, write_figure
from ...evaluation.scoring import KINDS
from ...runtime import frontier
from .claims import over_seeds

# Together told apart with any colour vision.
COLOURS = matplotlib.color_sequences["tab10"]
MARKERS = "osD^vPX<>*"


def write_comparison_figures(record: Mapping[str, Any], folder: Path) -> None:
    """
    Write ``ap_against_gflops.png``, of classifiers ``accuracy_against_gflops.png``, and with
    studies ``ap_against_gflops_NAME.png`` of each.
    """
    reference = record["methods"][0]
    kinds = {score["kind"] for score in record["scores"]}
    name = "accuracy_against_gflops" if kinds == {"class"} else "ap_against_gflops"
    for study in dict.fromkeys(method["study"] for method in record["methods"]):
        methods = [method for method in record["methods"] if method["study"] == study]
        if study:
            methods = [reference, *methods]
        stem = "_".join([name, *re.findall(r"\w+", study.lower())])
        if record["scores"]:
            write_figure(scores_against_gflops(record, methods), folder / f"{stem}.png")


def scores_against_gflops(record: Mapping[str, Any], methods: Sequence[dict[str, Any]]) -> Figure:
    """
    Draw one panel per kind of score.

    A method that is one network has its frontier (the points that no cheaper one of it beats on the
    mean over seeds) as a line, with the spread as a band, and its other points as faint markers;
    one of several networks has a marker with the spread for each.
    """
    kinds = list(dict.fromkeys(score["kind"] for score in record["scores"]))
    figure = Figure(figsize=(6.2 * len(kinds), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        style_axes(axes)
        axes.set_xlabel("GFLOPs per image (multiply-adds)")
        axes.set_ylabel(f"{KINDS[kind].label} (%),\n{over_seeds(record)}")
        for number, method in enumerate(methods):
            scores = [
                score
                for score in record["scores"]
                if (score["method"], score["kind"]) == (method["name"], kind)
            ]
            if scores:
                look = {
                    "color": COLOURS[number % len(COLOURS)],
                    "marker": MARKERS[number % len(MARKERS)],
                }
                _draw(axes, method, scores, look)
        shown = [score["gflops"] for score in record["scores"]]
        scale_cost(axes, shown)
        axes.margins(x=0.05, y=0.08)
    lines, labels = panels[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    return figure


def _draw(axes: Axes, method: dict[str, Any], scores: list[dict], look: dict[str, Any]) -> None:
    if method["networks"]:
        axes.errorbar(
            *_columns(scores),
            yerr=[score["spread"] or 0 for score in scores],
            linestyle="none",
            markersize=7,
            capsize=3,
            label=method["label"],
            zorder=4,
            **look,
        )
        return
    best = frontier(scores, lambda score: score["gflops"], lambda score: score["mean"])
    gflops, means = _columns(best)
    spreads = [score["spread"] or 0 for score in best]
    axes.plot(gflops, means, linewidth=1.6, markersize=4.5, label=method["label"], zorder=3, **look)
    axes.fill_between(
        gflops,
        [mean - spread for mean, spread in zip(means, spreads, strict=True)],
        [mean + spread for mean, spread in zip(means, spreads, strict=True)],
        color=look["color"],
        alpha=0.18,
        linewidth=0,
        zorder=1,
    )
    others = [score for score in scores if score not in best]
    axes.plot(*_columns(others), linestyle="none", markersize=3.5, alpha=0.35, zorder=2, **look)


def _columns(scores: Sequence[dict[str, Any]]) -> tuple[list[float], list[float]]:
    return [score["gflops"] for score in scores], [score["mean"] for score in scores]

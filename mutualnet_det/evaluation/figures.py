"""Charts of a grid: score against GFLOPs with the frontier, and a width x resolution heat map."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from ..runtime import frontier
from ..slimmable import OperatingPoint
from .files import replacing
from .results import Grid, GridRow
from .scoring import KINDS
from .sheet import detection_sheet

DOTS_PER_INCH = 150
# Perceptually uniform, and read alike with any colour vision.
COLOURS = matplotlib.colormaps["viridis"]
# Costs that span more than this are drawn on a logarithmic axis.
LOG_SPAN = 4
INK, FAINT = "#222222", "#9a9a9a"

Curve = list[tuple[float, float]]  # (GFLOPs, AP) of points from cheap to dear


def write_figures(
    grid: Grid,
    folder: Path,
    records: Sequence[dict],
    ground_truth: dict,
    results: Callable[[OperatingPoint], Iterable[dict]],
) -> None:
    """
    Write ``ap_against_gflops.png``, ``heat_map.png`` and ``detections.png``.

    Args:
        records: of the images, in Detectron2's data set format.
        ground_truth: COCO ground truth of the same images.
        results: by operating point, ``image_id`` and ``detections`` of every image.
    """
    write_charts(grid, folder, "ap_against_gflops")
    write_figure(detection_sheet(grid, records, ground_truth, results), folder / "detections.png")


def write_charts(grid: Grid, folder: Path, curves: str) -> None:
    """Write ``heat_map.png`` and, under the name ``curves``, the scores against GFLOPs."""
    write_figure(ap_against_gflops(grid), folder / f"{curves}.png")
    write_figure(heat_map(grid), folder / "heat_map.png")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the file's ending names, such as PNG or SVG."""
    with replacing(path, "wb") as file:
        figure.savefig(file, format=path.suffix[1:], dpi=DOTS_PER_INCH)


def grid_frontier(grid: Grid, kind: str) -> list[GridRow]:
    """The rows no cheaper row beats in the main metric of ``kind``, cheapest first."""
    return frontier(grid.rows, lambda row: row.gflops, lambda row: row.score(kind))


def _panels(grid: Grid, width: float, height: float) -> tuple[Figure, Sequence[Axes]]:
    """A panel per kind of score, ``width`` x ``height`` inches each."""
    count = len(grid.kinds)
    figure = Figure(figsize=(width * count, height), layout="constrained")
    FigureCanvasAgg(figure)  # text can be measured
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08, wspace=0.04)
    return figure, figure.subplots(1, count, squeeze=False)[0]


# AP against GFLOPs -------------------------------------------------------------------------------


def ap_against_gflops(grid: Grid) -> Figure:
    """Draw all operating points, a line per width, the frontier drawn through and labelled."""
    figure, panels = _panels(grid, 5.6, 4.4)
    widths = sorted({row.point.width for row in grid.rows})
    lines: dict[str, list[Curve]] = {}
    for axes, kind in zip(panels, grid.kinds, strict=True):
        style_axes(axes)
        axes.set_xlabel("GFLOPs per image (multiply-adds)")
        axes.set_ylabel(f"{KINDS[kind].label} (%)")
        best = _curve(grid_frontier(grid, kind), kind)
        axes.plot(
            *zip(*best, strict=True),
            color="#d9d9d9",
            linewidth=7,
            solid_capstyle="round",
            solid_joinstyle="round",
            label="frontier",
            zorder=1,
        )
        lines[kind] = [best]
        for width in widths:
            rows = [row for row in grid.rows if row.point.width == width]
            curve = _curve(sorted(rows, key=lambda row: row.gflops), kind)
            if not curve:
                continue
            lines[kind].append(curve)
            axes.plot(
                *zip(*curve, strict=True),
                color=_ordinal_colour(widths, width),
                linewidth=1.1,
                marker="o",
                markersize=4.5,
                markeredgecolor="white",
                markeredgewidth=0.5,
                label=f"width {_width_label(width)}",
                zorder=2,
            )
            kept = [point for point in curve if point in best]
            if kept:
                axes.plot(
                    *zip(*kept, strict=True),
                    color=_ordinal_colour(widths, width),
                    linestyle="none",
                    marker="o",
                    markersize=6.5,
                    markeredgecolor=INK,
                    markeredgewidth=0.9,
                    zorder=3,
                )
        scale_cost(axes, [row.gflops for row in grid.rows])
        axes.margins(x=0.09, y=0.14)
        axes.autoscale_view()
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 0))
    panels[-1].legend(loc="lower right", frameon=False, fontsize=8.5, handlelength=1.6)
    figure.draw_without_rendering()  # labels are placed where the final layout leaves room
    for axes, kind in zip(panels, grid.kinds, strict=True):
        best = grid_frontier(grid, kind)
        texts = [str(row.point).replace("x", "\u2009\u00d7\u2009") for row in best]
        _label_points(axes, _curve(best, kind), texts, lines[kind])
    return figure


def _curve(rows: Iterable[GridRow], kind: str) -> Curve:
    return [(row.gflops, row.score(kind)) for row in rows if row.score(kind) is not None]


def _width_label(width: float) -> str:
    return f"{width:.2f}" if round(width, 2) == width else f"{width:g}"


def style_axes(axes: Axes) -> None:
    """Axes that stand back behind what is drawn in them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, color=FAINT)
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)


def _ordinal_colour(values: Sequence[float], value: float):
    # The bright end of the map does not show on white.
    return COLOURS(0.9 * values.index(value) / max(len(values) - 1, 1))


def scale_cost(axes: Axes, costs: Sequence[float]) -> None:
    """Make the axis of costs (GFLOPs) logarithmic, if they span much."""
    if max(costs) / min(costs) <= LOG_SPAN:
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


# Where a label may stand, in points from its marker: (x, y, horizontal, vertical alignment). A
# frontier has free room above and to the left of it.
_PLACES = (
    (-5, 5, "right", "bottom"),
    (-8, 0, "right", "center"),
    (0, 8, "center", "bottom"),
    (-2, 13, "right", "bottom"),
    (6, -6, "left", "top"),
    (8, 0, "left", "center"),
    (0, -8, "center", "top"),
)


def _label_points(axes: Axes, points: Curve, texts: Sequence[str], lines: Sequence[Curve]) -> None:
    """
    Label ``points`` where the text covers no line, marker, legend or other label.

    A point without such a place stays unlabelled: the query table has them all.
    """
    renderer = axes.figure.canvas.get_renderer()
    pixels_per_point = renderer.points_to_pixels(1)
    taken = []
    for line in lines:
        corners = axes.transData.transform(line)
        taken += _squares(corners, 3 * pixels_per_point)
        for start, end in itertools.pairwise(corners):
            steps = int(np.hypot(*(end - start)) / (2 * pixels_per_point)) + 2
            taken += _squares(np.linspace(start, end, steps), 0.5 * pixels_per_point)
    if axes.get_legend() is not None:
        taken.append(axes.get_legend().get_window_extent(renderer))
    room = axes.bbox.padded(6 * pixels_per_point)
    # The ends of the frontier matter most.
    order = sorted(range(len(points)), key=lambda i: (0 < i < len(points) - 1, i))
    for index in order:
        for x, y, horizontal, vertical in _PLACES:
            label = axes.annotate(
                texts[index],
                points[index],
                (x, y),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=7.5,
                color=INK,
            )
            box = label.get_window_extent(renderer)
            if not _sticks_out(box, room) and not box.count_overlaps(taken):
                taken.append(box.padded(1))
                break
            label.remove()


def _squares(centres: np.ndarray, radius: float) -> list[Bbox]:
    return [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in centres]


def _sticks_out(box: Bbox, room: Bbox) -> bool:
    return box.x0 < room.x0 or box.x1 > room.x1 or box.y0 < room.y0 or box.y1 > room.y1


# Heat map ----------------------------------------------------------------------------------------


def heat_map(grid: Grid) -> Figure:
    """AP at every width (rows) and resolution (columns), cells of the frontier framed."""
    widths = sorted({row.point.width for row in grid.rows})
    resolutions = sorted({row.point.resolution for row in grid.rows})
    figure, panels = _panels(grid, 1.6 + 0.78 * len(resolutions), 1.35 + 0.5 * len(widths))
    for axes, kind in zip(panels, grid.kinds, strict=True):
        values = np.full((len(widths), len(resolutions)), np.nan)
        for row in grid.rows:
            if row.score(kind) is not None:
                cell = widths.index(row.point.width), resolutions.index(row.point.resolution)
                values[cell] = row.score(kind)
        image = axes.imshow(values, cmap=COLOURS, aspect="auto", origin="lower")
        axes.set_facecolor("#f2f2f2")  # operating points that were not evaluated
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = image.norm(value) < 0.6
                axes.text(
                    *(x, y, f"{value:.1f}"),
                    ha="center",
                    va="center",
                    fontsize=9.5,
                    color="white" if dark else "black",
                )
        for row in grid_frontier(grid, kind):
            y, x = widths.index(row.point.width), resolutions.index(row.point.resolution)
            axes.add_patch(
                Rectangle(
                    (x - 0.46, y - 0.46),
                    *(0.92, 0.92),
                    fill=False,
                    edgecolor="#ff7f0e",
                    linewidth=2.2,
                    clip_on=False,
                )
            )
        axes.set_title(f"{KINDS[kind].label} (%)", fontsize=10.5, color=INK)
        axes.set_xticks(range(len(resolutions)), [str(r) for r in resolutions])
        axes.set_yticks(range(len(widths)), [_width_label(w) for w in widths])
        axes.set_xlabel("resolution (short side, px)")
        axes.set_ylabel("width")
        axes.tick_params(length=0, labelsize=9, colors=INK)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(len(resolutions) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(widths) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=2)
        axes.tick_params(which="minor", length=0)
    figure.supxlabel("framed: no cheaper point is better", fontsize=8.5, color="#b85a00")
    return figure

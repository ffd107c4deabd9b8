"""A sheet of detections: the same images at several budgets, beside the ground truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from detectron2.data.detection_utils import read_image
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from ..data.coco_check import by_class
from ..data.masks import decoded
from ..evenly import evenly
from ..runtime import frontier
from ..runtime.drawing import class_colour, text_colour
from ..slimmable import OperatingPoint
from .results import Grid, GridRow

MAX_IMAGES = 4
MAX_POINTS = 4
MIN_SCORE = 0.5
# Images with this many objects show most.
GOOD_OBJECTS = (2, 8)
CELL_WIDTH = 2.35  # inches
TRUTH_ROWS, TRUTH_COLUMNS, TRUTH_WIDTH = 3, 4, 3.6  # inches


def detection_sheet(
    grid: Grid,
    records: Sequence[dict],
    ground_truth: dict,
    results: Callable[[OperatingPoint], Iterable[dict]],
) -> Figure:
    """
    A row per image; the ground truth, then frontier points from cheap to dear.

    Args:
        records: of the images, in Detectron2's data set format.
        ground_truth: COCO ground truth of the same images.
        results: by operating point, ``image_id`` and ``detections`` (COCO results) of every image.
    """
    best = frontier(grid.rows, lambda row: row.gflops, lambda row: row.score("box"))
    shown = evenly(best, MAX_POINTS)
    truth = true_objects(records, ground_truth)
    chosen = choose_images(records, truth, MAX_IMAGES)
    columns: list[dict[int, list[dict]]] = [truth]
    for row in shown:
        wanted = {record["image_id"] for record in chosen}
        columns.append(
            {r["image_id"]: r["detections"] for r in results(row.point) if r["image_id"] in wanted}
        )
    categories = {category["id"]: category["name"] for category in by_class(ground_truth)}
    return _draw(chosen, ["ground truth", *map(_header, shown)], columns, categories)


def truth_sheet(records: Sequence[dict], ground_truth: dict) -> Figure:
    """
    A sheet of at most ``TRUTH_ROWS`` x ``TRUTH_COLUMNS`` images with their objects, so that every
    class is there if that is possible.

    Args:
        records: "image_id", "file_name", "height" and "width" of each image.
        ground_truth: their COCO ground truth; crowds are not drawn.
    """
    truth = true_objects(records, ground_truth)
    chosen = _of_every_class(records, truth, TRUTH_ROWS * TRUTH_COLUMNS)
    categories = {category["id"]: category["name"] for category in by_class(ground_truth)}
    columns = min(TRUTH_COLUMNS, max(len(chosen), 1))
    rows = [chosen[i : i + columns] for i in range(0, len(chosen), columns)]
    figure = Figure(figsize=(TRUTH_WIDTH * columns, TRUTH_WIDTH * max(len(rows), 1)))
    FigureCanvasAgg(figure)
    for y, row in enumerate(rows):
        for x, record in enumerate(row):
            place = (x / columns, 1 - (y + 1) / len(rows), 0.98 / columns, 0.98 / len(rows))
            image = read_image(record["file_name"], format="RGB")
            _draw_cell(figure.add_axes(place), image, truth[record["image_id"]], categories)
    return figure


def _of_every_class(
    records: Sequence[dict], truth: dict[int, list[dict]], count: int
) -> list[dict]:
    """At most ``count`` images: one for each class, rare ones first, then such as show much."""
    frequency: Counter[int] = Counter()
    best: dict[int, int] = {}  # of each class, an image with few objects
    for image_id, objects in truth.items():
        for category in {o["category_id"] for o in objects}:
            frequency[category] += 1
            if category not in best or len(objects) < len(truth[best[category]]):
                best[category] = image_id
    by_id = {record["image_id"]: record for record in records}
    chosen: dict[int, dict] = {}
    shown: set[int] = set()
    for category, _ in reversed(frequency.most_common()):
        if category not in shown and len(chosen) < count:
            chosen[best[category]] = by_id[best[category]]
            shown |= {o["category_id"] for o in truth[best[category]]}
    rest = [record for record in records if record["image_id"] not in chosen]
    return [*chosen.values(), *choose_images(rest, truth, count - len(chosen))]


def true_objects(records: Sequence[dict], ground_truth: dict) -> dict[int, list[dict]]:
    """The annotations of each record by its image id, without crowds."""
    truth: dict[int, list[dict]] = {record["image_id"]: [] for record in records}
    for annotation in ground_truth["annotations"]:
        if not annotation["iscrowd"]:
            truth[annotation["image_id"]].append(annotation)
    return truth


def choose_images(records: Sequence[dict], truth: dict[int, list[dict]], count: int) -> list[dict]:
    """Choose at most ``count`` of the records, with neither too few nor too many objects."""
    fewest, most = GOOD_OBJECTS

    def excess(record: dict) -> int:
        objects = len(truth[record["image_id"]])
        return max(fewest - objects, objects - most, 0)

    good = [record for record in records if excess(record) == 0]
    if len(good) < count:
        with_objects = [record for record in records if truth[record["image_id"]]]
        good = sorted(with_objects, key=excess)[:count]
    return evenly(good, count)


def _header(row: GridRow) -> str:
    return f"{row.point}\n{row.gflops:.3g} GFLOPs, {row.milliseconds:.0f} ms"


def _draw(
    records: Sequence[dict],
    headers: Sequence[str],
    columns: Sequence[dict[int, list[dict]]],
    categories: dict[int, str],
) -> Figure:
    # A tall image takes no more room than a square one.
    heights = [CELL_WIDTH * min(r["height"] / r["width"], 1.0) for r in records]
    gap, top = 0.06, 0.52
    size = (
        CELL_WIDTH * len(headers) + gap * (len(headers) + 1),
        sum(heights) + gap * len(records) + top,
    )
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)  # text can be measured
    y = size[1] - top
    for number, (record, height) in enumerate(zip(records, heights, strict=True)):
        image = read_image(record["file_name"], format="RGB")
        y -= height
        for column, (header, objects) in enumerate(zip(headers, columns, strict=True)):
            x = gap + column * (CELL_WIDTH + gap)
            axes = figure.add_axes(
                [x / size[0], y / size[1], CELL_WIDTH / size[0], height / size[1]]
            )
            if number == 0:
                figure.text(
                    (x + CELL_WIDTH / 2) / size[0],
                    1 - top / 2 / size[1],
                    header,
                    ha="center",
                    va="center",
                    fontsize=10,
                    color="#222222",
                )
            _draw_cell(axes, image, objects.get(record["image_id"], []), categories)
        y -= gap
    return figure


def _draw_cell(
    axes: Axes, image: np.ndarray, objects: Sequence[dict], categories: dict[int, str]
) -> None:
    """An image (H, W, 3) with the objects drawn on it; ground truth has no score."""
    height, width = image.shape[:2]
    shown = [o for o in objects if o.get("score", 1.0) >= MIN_SCORE]
    # Large ones first, so that small ones stay visible.
    shown.sort(key=lambda o: -o["bbox"][2] * o["bbox"][3])
    colours = {id_: class_colour(index) for index, id_ in enumerate(categories)}
    canvas = image.astype(np.float32)
    for o in shown:
        mask = object_mask(o, height, width)
        if mask is not None:
            canvas[mask] = 0.55 * canvas[mask] + 0.45 * np.array(colours[o["category_id"]])
    axes.imshow(canvas.astype(np.uint8), interpolation="antialiased")
    axes.set_axis_off()
    labels: list[Bbox] = []
    for o in shown:
        x, y, w, h = o["bbox"]
        colour = np.array(colours[o["category_id"]]) / 255
        axes.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=colour, linewidth=1.1))
        text = categories[o["category_id"]]
        if "score" in o:
            text += f" {100 * o['score']:.0f}"
        label = axes.text(
            min(max(x, 0), width) if x < 0.75 * width else min(x + w, width),
            max(y, 0.055 * height),
            text,
            fontsize=5.5,
            color=np.array(text_colour(colours[o["category_id"]])) / 255,
            ha="left" if x < 0.75 * width else "right",
            va="bottom",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.7, "alpha": 0.9},
            clip_on=True,
        )
        place = label.get_window_extent()
        if place.count_overlaps(labels):  # a name half hidden under another is worse than none
            label.remove()
        else:
            labels.append(place)
    if not shown:
        axes.text(
            0.5 * width,
            0.96 * height,
            f"nothing above a score of {MIN_SCORE:g}",
            fontsize=6.5,
            color="white",
            ha="center",
            va="bottom",
            bbox={"facecolor": "#000000", "edgecolor": "none", "pad": 1.5, "alpha": 0.55},
        )


def object_mask(o: dict, height: int, width: int) -> np.ndarray | None:
    """The (H, W) mask of an annotation or detection, None if it has none."""
    segmentation = o.get("segmentation")
    return decoded(segmentation, height, width) if segmentation else None

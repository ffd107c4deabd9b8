"""The pictures of a grid show every point, in its place, and name what matters."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.figures import (
    ap_against_gflops,
    grid_frontier,
    heat_map,
    write_figures,
)
from mutualnet_det.evaluation.results import Grid, GridRow
from mutualnet_det.evaluation.scoring import AP_METRICS
from mutualnet_det.evaluation.sheet import detection_sheet
from mutualnet_det.runtime import Latency
from mutualnet_det.slimmable import OperatingPoint

WIDTHS, RESOLUTIONS = (0.25, 0.5, 0.75, 1.0), (240, 360, 480, 600)


def scores(ap):
    return {**dict.fromkeys(AP_METRICS, ap), "per_class": {}}


def make_grid(points=None, *, masks=True, ap=None):
    """AP rises with both, and falls short of it at full width and low resolution."""
    rows = []
    for point in points or itertools.starmap(
        OperatingPoint, itertools.product(WIDTHS, RESOLUTIONS)
    ):
        gflops = 40 * (point.resolution / 600) ** 2 * point.width**1.8
        box = 34 * (point.resolution / 600) ** 0.6 * point.width**0.35 if ap is None else ap
        shares = {"backbone": 0.1, "neck": 0.3, "rpn": 0.4, "box_head": 0.2}
        parts = {part: gflops * share for part, share in shares.items()}
        cost = Cost(parts, {}, 1000, dict.fromkeys((*parts, "mask_head"), 1000))
        by_kind = {"box": scores(box)} | ({"mask": scores(0.9 * box)} if masks else {})
        latency = {"CPU": Latency(50.0 * gflops, 60.0 * gflops)}
        rows.append(GridRow(point, cost, 10.0, latency, by_kind))
    return Grid(tuple(rows), {})


def drawn_points(axes):
    return {tuple(xy) for line in axes.lines for xy in line.get_xydata()}


def texts(axes):
    return [text for text in axes.texts if text.get_text()]


@pytest.mark.parametrize("masks", [True, False])
def test_every_point_is_drawn_at_its_cost_and_ap(masks):
    grid = make_grid(masks=masks)
    panels = ap_against_gflops(grid).axes
    assert [axes.get_ylabel() for axes in panels] == ["box AP (%)", "mask AP (%)"][: 1 + masks]
    for axes, kind in zip(panels, grid.kinds, strict=True):
        assert {(row.gflops, row.score(kind)) for row in grid.rows} == drawn_points(axes)
        assert "GFLOPs" in axes.get_xlabel()
    legend = [text.get_text() for text in panels[-1].get_legend().get_texts()]
    assert legend == ["frontier", "width 0.25", "width 0.50", "width 0.75", "width 1.00"]


def test_the_frontier_is_labelled_without_overlap():
    grid = make_grid()
    figure = ap_against_gflops(grid)
    figure.draw_without_rendering()
    for axes, kind in zip(figure.axes, grid.kinds, strict=True):
        best = grid_frontier(grid, kind)
        assert 4 <= len(best) < len(grid.rows)
        names = {
            text.get_text().replace("\u2009", "").replace("\u00d7", "x"): text
            for text in texts(axes)
        }
        assert set(names) == {str(row.point) for row in best}
        for row in best:  # each label at its own point
            assert names[str(row.point)].xy == (row.gflops, row.score(kind))
        boxes = [text.get_window_extent() for text in texts(axes)]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("points, scale", [(None, "log"), ([(0.9, 600), (1.0, 600)], "linear")])
def test_a_wide_range_of_costs_is_drawn_on_a_logarithmic_axis(points, scale):
    points = points and [OperatingPoint(*p) for p in points]
    assert ap_against_gflops(make_grid(points)).axes[0].get_xscale() == scale


def test_heat_map_has_each_number_in_its_cell():
    grid = make_grid()
    panels = heat_map(grid).axes
    for axes, kind in zip(panels, grid.kinds, strict=True):
        assert [t.get_text() for t in axes.get_xticklabels()] == [str(r) for r in RESOLUTIONS]
        assert [t.get_text() for t in axes.get_yticklabels()] == ["0.25", "0.50", "0.75", "1.00"]
        shown = {text.get_position(): text.get_text() for text in texts(axes)}
        for row in grid.rows:
            cell = RESOLUTIONS.index(row.point.resolution), WIDTHS.index(row.point.width)
            assert shown[cell] == f"{row.score(kind):.1f}"
        frames = [p for p in axes.patches if isinstance(p, Rectangle)]
        centres = {(f.get_x() + 0.46, f.get_y() + 0.46) for f in frames}
        assert centres == {
            (RESOLUTIONS.index(row.point.resolution), WIDTHS.index(row.point.width))
            for row in grid_frontier(grid, kind)
        }


def test_points_that_were_not_evaluated_stay_empty():
    points = [OperatingPoint(0.25, 240), OperatingPoint(1.0, 600)]
    (axes, _) = heat_map(make_grid(points)).axes
    assert {text.get_position() for text in texts(axes)} == {(0, 0), (1, 1)}


@pytest.mark.parametrize("draw", [ap_against_gflops, heat_map])
@pytest.mark.parametrize("points, ap", [([(1.0, 600)], None), (None, 0.0)])
def test_one_point_or_all_zero(draw, points, ap):
    figure = draw(make_grid(points and [OperatingPoint(*p) for p in points], ap=ap))
    figure.draw_without_rendering()


@pytest.fixture
def pictures(tmp_path):
    """Six images with a growing number of objects, the fifth a tall one; and their ground truth."""
    records, annotations = [], []
    for image_id in range(6):
        height, width = (160, 80) if image_id == 4 else (80, 120)
        path = tmp_path / f"{image_id}.png"
        Image.new("RGB", (width, height), (90, 90, 90)).save(path)
        records.append(
            {"file_name": str(path), "height": height, "width": width, "image_id": image_id}
        )
        for number in range(image_id):
            x = 5 + 14 * number
            polygon = [[x, 10, x + 12, 10, x + 12, 40, x, 40]]
            annotations.append(
                {
                    "image_id": image_id,
                    "category_id": 3 + number % 2,
                    "bbox": [x, 10, 12, 30],
                    "segmentation": polygon,
                    "iscrowd": int(image_id == 5 and number == 0),
                }
            )
    categories = [{"id": 3, "name": "cat"}, {"id": 4, "name": "dog"}]
    return records, {"annotations": annotations, "categories": categories}


def find(ground_truth, score_of):
    """Every object found at every point, with the score that ``score_of(point)`` gives."""

    def detections(point):
        return [
            {
                "image_id": image_id,
                "detections": [
                    {**a, "score": score_of(point)}
                    for a in ground_truth["annotations"]
                    if a["image_id"] == image_id
                ],
            }
            for image_id in range(6)
        ]

    return detections


def boxes(axes):
    return [p for p in axes.patches if isinstance(p, Rectangle)]


def test_sheet_shows_ground_truth_and_budgets_from_cheap_to_dear(pictures):
    records, truth = pictures
    grid = make_grid()
    # Nothing is confident at the narrowest width.
    detections = find(truth, lambda point: 0.4 if point.width == 0.25 else 0.9)
    figure = detection_sheet(grid, records, truth, detections)
    headers = [text.get_text() for text in figure.texts]
    best = grid_frontier(grid, "box")
    assert headers[0] == "ground truth" and len(headers) == 5
    assert headers[1].startswith(str(best[0].point)) and headers[-1].startswith(str(best[-1].point))
    assert all("GFLOPs" in header for header in headers[1:])
    rows = [figure.axes[i : i + 5] for i in range(0, len(figure.axes), 5)]
    # Images with 2 to 5 objects; of the last, one is a crowd and stays out of the ground truth.
    assert [len(boxes(row[0])) for row in rows] == [2, 3, 4, 4]
    assert [len(boxes(row[-1])) for row in rows] == [2, 3, 4, 5]
    for row in rows:
        assert boxes(row[1]) == [] and "nothing above" in texts(row[1])[0].get_text()
        assert any(text.get_text() == "cat 90" for text in texts(row[-1]))
        assert any(text.get_text() == "dog" for text in texts(row[0]))


def test_sheet_paints_masks_in_the_colour_of_the_class(pictures):
    records, truth = pictures
    figure = detection_sheet(make_grid(), records, truth, find(truth, lambda point: 0.9))
    axes = figure.axes[0]
    pixels = np.asarray(axes.images[0].get_array())
    assert (pixels[0, 0] == 90).all()
    cat, dog = pixels[25, 10], pixels[25, 24]
    assert not (cat == 90).all() and not (cat == dog).all()
    colours = {to_hex(box.get_edgecolor()) for box in boxes(axes)}
    assert len(colours) == 2


def test_sheet_without_masks_or_objects(pictures):
    records, truth = pictures
    for annotation in truth["annotations"]:
        del annotation["segmentation"]
    detections = find(truth, lambda point: 0.9)
    sheet = detection_sheet(make_grid(masks=False), records, truth, detections)
    pixels = np.asarray(sheet.axes[0].images[0].get_array())
    assert (pixels == 90).all() and len(boxes(sheet.axes[0])) == 2


def test_files(pictures, tmp_path):
    records, truth = pictures
    write_figures(make_grid(), tmp_path / "f", records, truth, find(truth, lambda point: 0.9))
    for name in ("ap_against_gflops", "heat_map", "detections"):
        with Image.open(tmp_path / "f" / f"{name}.png") as image:
            assert image.width > 800
            assert len(image.convert("RGB").resize((50, 50)).getcolors(2500)) > 20

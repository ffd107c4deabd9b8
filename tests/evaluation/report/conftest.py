"""Evaluations as files, made from formulas, and a browser to look at their reports."""

import json

import numpy as np
import pytest
from PIL import Image

from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.results import SCHEMA_VERSION, Grid, GridRow
from mutualnet_det.evaluation.scoring import KINDS
from mutualnet_det.runtime import Latency
from mutualnet_det.slimmable import OperatingPoint

CPU, GPU = "Some CPU, 1 thread", "Some GPU"
POINTS = [OperatingPoint(w, r) for w in (0.25, 0.5, 1.0) for r in (240, 360, 480)]


def make_row(point, *, kinds=("box", "mask"), scale=1.0, ap=None, classes=("cat", "dog")):
    """The GPU is faster at large resolutions: its frontier is another than that of GFLOPs."""
    gflops = 40 * (point.resolution / 600) ** 2 * point.width**1.8
    main = 34 * (point.resolution / 600) ** 0.6 * point.width**0.35 * scale if ap is None else ap
    cost = Cost({"backbone": gflops}, {}, 1000, {"backbone": int(3e6 * point.width**2)})
    latency = {
        CPU: Latency(10 + 20 * gflops, 11 + 22 * gflops, None),
        GPU: Latency(8 + 6 * point.width - point.resolution / 100, 19.0, 150 + gflops),
    }
    scores = {}
    for number, kind in enumerate(kinds):
        # Other points are best in the second kind than in the first.
        value = main * (1 - 0.6 * point.width) ** number if ap != "none" else None
        metrics = {m: value and value * 0.9**i for i, m in enumerate(KINDS[kind].metrics)}
        if kind != "class":
            metrics["per_class"] = {n: value and value * (1 - i / 5) for i, n in enumerate(classes)}
        scores[kind] = metrics
    return GridRow(point, cost, 8.0, latency, scores)


def make_run(dataset="things_val", config="DATASETS:\n  COCO_FORMAT: []\n", **changed):
    return {
        "dataset": dataset,
        "num_images": 1200,
        "num_objects": 3400,
        "timing": "median of one forward",
        "weights": "output/model_final.pth",
        "weights_fingerprint": "0123456789abcdef",
        "device": CPU,
        "versions": {"torch": "2.11.0"},
        "config": config,
        "identity": {"ground truth": "f00"},
        **changed,
    }


def evaluate(folder, points=POINTS, run=None, **how):
    grid = Grid(tuple(make_row(point, **how) for point in points), run or make_run())
    path = folder / "grid" / "grid.json"
    path.parent.mkdir(parents=True)
    rows = [row.to_dict() for row in grid.rows]
    path.write_text(json.dumps({"schema": SCHEMA_VERSION, "run": grid.run, "rows": rows}))
    return grid


@pytest.fixture(scope="session")
def write_evaluation():
    """
    Writes what an evaluation leaves in ``OUTPUT_DIR``, as far as a report reads it: of
    ``write_evaluation(folder, points, run, **how)`` see ``make_row``. Gives the grid.
    """
    return evaluate


@pytest.fixture(scope="session")
def run_facts():
    """Makes the ``run`` of a ``grid.json``."""
    return make_run


SQUARE = [[20, 20, 60, 20, 60, 60, 20, 60]]


def picture(folder, root, points=POINTS, *, masks=True, num_images=2):
    root.mkdir(exist_ok=True)
    truth = {"images": [], "annotations": [], "categories": []}
    truth["categories"] = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    for image_id in range(1, num_images + 1):
        name = f"{image_id}.png"
        pixels = np.full((100, 200, 3), 40 * image_id, np.uint8)
        Image.fromarray(pixels).save(root / name)
        truth["images"].append({"id": image_id, "file_name": name, "width": 200, "height": 100})
        for crowd in (0, 1):
            truth["annotations"].append(
                {
                    "id": 2 * image_id + crowd,
                    "image_id": image_id,
                    "category_id": 3,
                    "bbox": [20, 20, 40, 40],
                    "segmentation": SQUARE,
                    "iscrowd": crowd,
                }
            )
    grid = folder / "grid"
    (grid / "ground_truth.json").write_text(json.dumps(truth))
    (grid / "detections").mkdir()
    for point in points:
        boxes, segments = [], []
        for image in truth["images"]:
            for category_id, score in ((3, 0.9), (7, float(point.width)), (7, 0.05)):
                head = {"image_id": image["id"], "category_id": category_id, "score": score}
                boxes.append({**head, "bbox": [20, 20, 40, 40]})
                segments.append({**head, "segmentation": SQUARE})
        (grid / "detections" / f"{point}.bbox.json").write_text(json.dumps(boxes))
        if masks:
            (grid / "detections" / f"{point}.segm.json").write_text(json.dumps(segments))


@pytest.fixture(scope="session")
def write_pictures():
    """
    Writes images of 200 x 100 px with a cat (and a crowd) each to ``root``, and to ``folder`` what
    was found: the cat, with masks; a dog at the same place, with a score of the width; another dog
    with a score of 0.05.
    """
    return picture

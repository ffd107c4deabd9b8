"""A small plan, and what its runs would leave behind."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.results import Grid, GridRow
from mutualnet_det.evaluation.scoring import AP_METRICS, load_ground_truth, score
from mutualnet_det.lab.comparison import read_plan
from mutualnet_det.lab.comparison.compute import ComputeCounter
from mutualnet_det.lab.comparison.runs import begin
from mutualnet_det.runtime import Latency

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture
def counted(monkeypatch):
    """Steps that cost 8 GFLOPs, those of networks trained alone 2: nothing is built."""
    monkeypatch.setattr(
        ComputeCounter,
        "step_gflops",
        lambda self, cfg: 2.0 if "independent" in cfg.MUTUALNET.METHOD else 8.0,
    )


@pytest.fixture
def plan_content(make_training_cfg, tmp_path):
    """A plan's content beside its base config, to be changed and written by ``write_plan``."""
    (tmp_path / "base.yaml").write_text(make_training_cfg(tmp_path / "unused").dump())
    return {
        "base": "base.yaml",
        "output": str(tmp_path / "output"),
        "seeds": [0, 1],
        "steps": 2,
        "widths": [0.25, 1.0],
        "resolutions": [64, 32],
        "methods": {
            "mutual": None,
            "us_net": {"label": "US-Net", "options": {"MUTUALNET.METHOD": "us_net"}},
            "independent": {
                "options": {"MUTUALNET.METHOD": "independent"},
                "networks": ["1.0x64", "0.25x32"],
            },
        },
        "claims": {"mutual": "mutual", "us_net": "us_net", "independent": "independent"},
        "resamples": 50,
    }


@pytest.fixture
def pretrain(tmp_path):
    """A plan's ``pretrain``, of the project's pretraining on shapes."""
    (tmp_path / "backbone.yaml").write_text(
        f"_BASE_: {CONFIGS / 'pretrain_shapes.yaml'}\nMODEL: {{DEVICE: cpu}}\n"
    )
    return {"base": "backbone.yaml", "output": str(tmp_path / "pretrained"), "steps": 5}


@pytest.fixture
def write_plan(plan_content, tmp_path):
    """Writes a plan with some keys changed (None: left out); returns its path."""

    def write(**changes):
        content = {**plan_content, **changes}
        path = tmp_path / "plan.yaml"
        path.write_text(
            yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False)
        )
        return path

    return write


@pytest.fixture
def plan(write_plan, counted):
    return read_plan(write_plan())


@pytest.fixture(scope="session")
def ground_truth():
    """20 images of 100 px with objects of 2 categories, as a COCO data set."""
    rng = np.random.default_rng(0)
    annotations = []
    for image in range(1, 21):
        for _ in range(int(rng.integers(1, 4))):
            x, y, width, height = (float(v) for v in rng.uniform(5, 45, 4).round(1))
            polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.integers(1, 3)),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
    images = [{"id": image, "height": 100, "width": 100} for image in range(1, 21)]
    categories = [{"id": 1, "name": "circle"}, {"id": 2, "name": "square"}]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="session")
def find(ground_truth):
    """
    Detections of about a fraction of the objects, displaced, some of another category, and some of
    nothing at all. Scores are equal in many images, never in one.
    """

    def detections_of(fraction, seed):
        rng = np.random.default_rng(seed)
        detections = []
        for annotation in ground_truth["annotations"]:
            for wanted in (fraction, 0.3):
                if rng.uniform() > wanted:
                    continue
                move = rng.normal(0, 3 if wanted == fraction else 40, 4)
                box = np.maximum(np.asarray(annotation["bbox"]) + move, 1).round(1).tolist()
                category = annotation["category_id"]
                detections.append(
                    {
                        "image_id": annotation["image_id"],
                        "category_id": category if rng.uniform() < 0.8 else 3 - category,
                        "bbox": box,
                    }
                )
        for image in ground_truth["images"]:
            there = [d for d in detections if d["image_id"] == image["id"]]
            for detection, place in zip(there, rng.permutation(len(there)), strict=True):
                detection["score"] = 0.9 - 0.05 * int(place)
        return detections

    return detections_of


def leave_behind(run, rows, facts):
    """Write what a run's training and evaluation leave, but for what its scores are made of."""
    begin(run)
    path = run.folder / "run.json"
    told = {"finished": True, "at_a_time": 2, "seconds": 1800.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | told))
    (run.folder / "metrics.json").write_text('{"iteration": 1, "time": 0.5}\n')
    run_facts = {
        "weights_fingerprint": "f",
        "dataset": "made_up",
        "num_images": 20,
        "device": "a device",
        "versions": {"torch": "2.0"},
        "identity": {"ground truth": "a digest"},
    }
    Grid(tuple(rows), run_facts | facts).save(run.folder / "grid")


def row_of(point, scores):
    cost = Cost({"backbone": point.width * point.resolution}, {}, 0, {"backbone": 1})
    return GridRow(point, cost, 1.0, {"a device": Latency(1.0, 1.0)}, scores)


@pytest.fixture
def finish(ground_truth, find):
    """Leaves in a run's folder what its training and evaluation would; returns its AP by point."""

    def write(run, fraction):
        folder = run.folder / "grid"
        rows, texts, aps = [], {}, {}
        for number, point in enumerate(run.points):
            detections = find(fraction, 100 * run.seed + number)
            texts[f"{point}.bbox.json"] = json.dumps(detections)
            scores = score(load_ground_truth(ground_truth, "pycocotools"), detections, "bbox")
            aps[str(point)] = scores["AP"]
            metrics = {metric: scores[metric] for metric in AP_METRICS}
            rows.append(row_of(point, {"box": metrics, "mask": None}))
        leave_behind(run, rows, {"num_objects": len(ground_truth["annotations"])})
        (folder / "ground_truth.json").write_text(json.dumps(ground_truth))
        (folder / "detections").mkdir()
        for name, text in texts.items():
            (folder / "detections" / name).write_text(text)
        return aps

    return write


@pytest.fixture
def finish_classifier():
    """Leaves what a classifier's run would, with 20 images of which so many are right."""

    def write(run, right):
        rows = [
            row_of(point, {"class": {"top1": 5.0 * right, "top5": 100.0}}) for point in run.points
        ]
        leave_behind(run, rows, {})
        (run.folder / "grid" / "predictions").mkdir()
        for point in run.points:
            lines = [f"{n}.jpg,,3,{'3 1' if n < right else '1 3'} 0 2 4" for n in range(20)]
            path = run.folder / "grid" / "predictions" / f"{point}.csv"
            path.write_text("\n".join(["file_name,row,label,top5", *lines, ""]))

    return write

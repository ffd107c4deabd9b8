"""The benchmark compares like with like, and counts each part where it belongs."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from mutualnet_det.evaluation import detection, latency
from mutualnet_det.lab.bench import runtime
from mutualnet_det.lab.bench.runtime import BenchmarkError
from mutualnet_det.runtime.export import ExportError
from mutualnet_det.runtime.pretrained import load_pretrained
from mutualnet_det.slimmable import width_of


class Clock:
    """Goes when it is told to, in ms."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now / 1000

    def taking(self, milliseconds, function):
        """A function that takes a time."""

        def timed(*args, **kwargs):
            self.now += milliseconds
            return function(*args, **kwargs)

        return timed


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


@pytest.fixture
def pretrained(model_folder):
    return load_pretrained(model_folder, "cpu")


# The data -----------------------------------------------------------------------------------------


def test_some_of_the_test_images(pretrained, tiny_shapes):
    with runtime.some_images(pretrained, 3) as cfg:
        (name,) = cfg.DATASETS.TEST
        records = DatasetCatalog.get(name)
        all_ids = [image["id"] for image in json.loads(open(tiny_shapes[1]).read())["images"]]
        ids = [record["image_id"] for record in records]
        assert len(ids) == 3 and (ids[0], ids[-1]) == (all_ids[0], all_ids[-1])
        content = json.loads(open(MetadataCatalog.get(name).json_file).read())
        assert {a["image_id"] for a in content["annotations"]} <= set(ids)
        assert all(record["annotations"] for record in records)
        assert cfg.DATASETS.TRAIN == ()
    assert name not in DatasetCatalog
    assert (tiny_shapes[0],) == pretrained.cfg.DATASETS.TEST


@pytest.mark.parametrize("name", ["PanopticFPN", "MutualSemanticSegmentor", "MutualClassifier"])
def test_what_detectron2_does_not_evaluate_alike_is_refused(pretrained, name):
    cfg = pretrained.cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = name
    with (
        pytest.raises(BenchmarkError, match=f"A {name} cannot be compared"),
        runtime.some_images(pretrained._replace(cfg=cfg), 3),
    ):
        pass


# The grid -----------------------------------------------------------------------------------------


@pytest.fixture
def known_times(clock, monkeypatch):
    """Each part takes the ms that it is given here, wherever it runs; nothing is computed."""

    def infer(model, image):
        instances = Instances(tuple(image.shape[-2:]))
        instances.pred_boxes = Boxes(torch.tensor([[2.0, 2.0, 20.0, 20.0]]))
        instances.scores = torch.tensor([0.9])
        instances.pred_classes = torch.tensor([0])
        instances.pred_masks = torch.ones(1, 1, 28, 28)
        return instances, None

    # By image, and by point.
    monkeypatch.setattr(latency, "infer", clock.taking(10, infer))
    paste = clock.taking(30, detector_postprocess)
    for module in (detection, runtime):
        monkeypatch.setattr(module, "detector_postprocess", paste)
    encode = clock.taking(5, detection.coco_results)
    monkeypatch.setattr(detection, "coco_results", encode)
    score = clock.taking(4, detection.DetectionTask.score)
    monkeypatch.setattr(detection.DetectionTask, "score", score)
    # Detectron2's.
    mapper, evaluator = runtime.DatasetMapper, runtime.COCOEvaluator
    monkeypatch.setattr(mapper, "__call__", clock.taking(2, mapper.__call__))
    monkeypatch.setattr(evaluator, "process", clock.taking(6, evaluator.process))
    monkeypatch.setattr(evaluator, "evaluate", clock.taking(8, evaluator.evaluate))


def test_the_grids_parts_are_kept_apart(pretrained, known_times):
    points = sorted(pretrained.calibrations)[:2]
    inside, beyond, with_pasting = runtime.compare_grid(pretrained, points, 2, rounds=2)
    times = [(c.milliseconds, c.baseline) for c in (inside, beyond, with_pasting)]
    # Of an image at a point, of two images: what is once for a point counts by half.
    encoding, scoring = 5, 4 / 2
    reading, processing, evaluating = 2, 6, 8 / 2
    assert times[0] == pytest.approx((10 + encoding, 10))
    assert times[1] == pytest.approx((encoding + scoring, reading + processing + evaluating))
    assert times[2] == pytest.approx([30 + milliseconds for milliseconds in times[1]])


# Scoring ------------------------------------------------------------------------------------------


def test_both_evaluators_score_every_point(tmp_path, clock, monkeypatch):
    truth = {
        "images": [{"id": 1, "height": 10, "width": 10}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25}
            | {"iscrowd": 0}
        ],
    }
    (tmp_path / "ground_truth.json").write_text(json.dumps(truth))
    (tmp_path / "detections").mkdir()
    detected = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "score": 0.5}]
    for point in ("0.25x32", "1.00x64"):
        (tmp_path / "detections" / f"{point}.bbox.json").write_text(json.dumps(detected))
    seen = []

    def score(truth, detections, *args):
        seen.append((type(truth).__name__, detections == detected))
        clock.now += 20 if len(seen) % 2 else 40

    monkeypatch.setattr(runtime, "score", score)
    (pair,) = runtime.compare_scoring(tmp_path, ())
    assert seen == [("HotcocoEvaluator", True), ("PycocotoolsEvaluator", True)] * 2
    assert pair.name == "scoring a point's box AP, hotcoco against pycocotools"
    assert (pair.milliseconds, pair.baseline) == pytest.approx((20, 40))


def test_scoring_needs_an_evaluated_grid_and_hotcoco(tmp_path, monkeypatch):
    with pytest.raises(BenchmarkError, match="no ground_truth.json. `mutualnet evaluate` writes"):
        runtime.compare_scoring(tmp_path, ())
    (tmp_path / "ground_truth.json").touch()
    monkeypatch.setattr(runtime, "default_evaluator", lambda: "pycocotools")
    with pytest.raises(BenchmarkError, match="hotcoco.* pip install"):
        runtime.compare_scoring(tmp_path, ())


# The predictor ------------------------------------------------------------------------------------


def test_the_predictor_and_the_model_do_the_same(pretrained):
    """The widths and input sizes of all forwards, in order."""
    seen = []
    hook = pretrained.model.backbone.register_forward_pre_hook(
        lambda module, args: seen.append((width_of(pretrained.model).value, tuple(args[0].shape)))
    )
    pairs = runtime.compare_predictor(pretrained, 2, rounds=1)
    hook.remove()
    entries = pretrained.table.entries
    names = [str(entry.point) for entry in entries]
    assert [pair.name for pair in pairs] == [
        *(f"predictor at {name}, against the model alone" for name in names),
        *(f"predictor at {name} with resizing, against DefaultPredictor's steps" for name in names),
    ]
    count = len(entries)
    assert len(seen) == 2 * 4 * count
    for start in range(0, len(seen), 2 * count):
        mine, other = seen[start : start + count], seen[start + count : start + 2 * count]
        assert mine == other
        assert [width for width, _ in mine] == [entry.point.width for entry in entries]


# Exports ------------------------------------------------------------------------------------------


def test_exports_run_what_the_model_runs(pretrained, monkeypatch):
    calls, order = [], []
    written = []

    def shapes(images):
        return [tuple(image.shape) for image in images]

    def export_point(pretrained, point, name, output, files):
        if name == "other":
            raise ExportError("it takes no such model")
        written.append((point, name, len(files)))
        output.mkdir()

    def load(folder):
        assert folder.is_dir()
        return lambda images: (calls.append(shapes(images)), order.append("export"))

    forms = dict.fromkeys(("one", "other"), SimpleNamespace(load=load))
    monkeypatch.setattr(runtime, "FORMATS", forms)
    monkeypatch.setattr(runtime, "export_point", export_point)
    ran = []
    run = runtime.run

    def recorded(model, images):
        ran.append(shapes(images))
        order.append("model")
        return run(model, images)

    monkeypatch.setattr(runtime, "run", recorded)
    pairs = runtime.compare_exports(pretrained, 2, rounds=2)
    ends = pretrained.table.entries[0].point, pretrained.table.entries[-1].point
    assert written == [(point, "one", 2) for point in ends]
    assert [pair.name for pair in pairs] == [
        f"{point} exported as one, against the model" for point in ends
    ]
    assert calls == ran and len(calls) == 2 * (runtime.WARM_UP + 2)
    assert order[:4] == ["model", "export", "export", "model"]
    assert {min(shape[1:]) for (shape,) in calls} == {point.resolution for point in ends}

"""
The cost of running a trained detector beyond its forwards: the grid, scoring, the predictor; and
exports against it.

A forward ends with detections at the network's scale; pasting masks into the image comes after it.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling.postprocessing import detector_postprocess
from torch import Tensor, nn

from ...data.check import check_datasets
from ...data.coco import register_coco
from ...data.images import evaluation_view, read_record
from ...errors import UserError
from ...evaluation.coco_evaluators import EVALUATORS, default_evaluator
from ...evaluation.cost import Cost
from ...evaluation.forward import IMAGES_AT_ONCE, PointResults
from ...evaluation.latency import timed
from ...evaluation.progress import Progress
from ...evaluation.scoring import KIND_OF, load_ground_truth, score
from ...evaluation.task import Task, build_task, dataset_name
from ...evaluation.workers import by_resolution, evaluating
from ...evenly import evenly
from ...family import finds_only_objects
from ...runtime import BudgetPredictor
from ...runtime.device import device_of, wait_for
from ...runtime.export import FORMATS, ExportError, export_point
from ...runtime.export.plain import Runner, run
from ...runtime.pretrained import Pretrained
from ...slimmable import OperatingPoint
from .pairs import TimedPair, elapsed

logger = logging.getLogger(__name__)

# Operating points that the predictor is compared at.
NUM_ENTRIES = 4
# Forwards of an export that do not count: TorchScript compiles again after those it has seen.
WARM_UP = 3
CPU = torch.device("cpu")


class BenchmarkError(UserError, ValueError):
    """Something that cannot be compared."""


@contextlib.contextmanager
def some_images(pretrained: Pretrained, count: int) -> Iterator[CfgNode]:
    """
    A config whose test data are ``count`` of the test images, evenly spread, or all if there are
    fewer; at most as many as the grid takes at once.

    Raises:
        BenchmarkError: for a model that is no detector, or makes more than detections.
    """
    if not finds_only_objects(pretrained.cfg):
        raise BenchmarkError(
            f"A {pretrained.cfg.MODEL.META_ARCHITECTURE} cannot be compared with Detectron2's "
            "COCOEvaluator. Give the folder of a model that finds objects, and nothing else."
        )
    cfg = pretrained.cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = ()
    check_datasets(cfg)
    source = MetadataCatalog.get(dataset_name(cfg))
    content = json.loads(Path(source.json_file).read_text(encoding="utf-8"))
    content["images"] = evenly(content["images"], min(count, IMAGES_AT_ONCE))
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    with tempfile.TemporaryDirectory() as folder:
        json_file = Path(folder) / "instances.json"
        json_file.write_text(json.dumps(content), encoding="utf-8")
        name = str(json_file)  # like no other
        register_coco(name, str(json_file), source.image_root)
        cfg.DATASETS.TEST = (name,)
        cfg.freeze()
        try:
            check_datasets(cfg)
            yield cfg
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


# The grid ----------------------------------------------------------------------------------------


@dataclass
class _GridTimes:
    """
    Times of one round, in ms.

    Attributes:
        grid: reading, resizing, forwards, pasting, encoding and writing the detections.
        grid_forwards: those among it.
        scoring: all points, and writing the results.
        forwards: bare, on resized images.
        pasting: the masks of these.
        detectron2: ``inference_on_dataset`` with a ``COCOEvaluator``, once for each point.
        detectron2_forwards: those among it.
        detectron2_pasting: the same.
        others: all that the grid waited for.
    """

    grid: float = 0.0
    grid_forwards: float = 0.0
    scoring: float = 0.0
    forwards: float = 0.0
    pasting: float = 0.0
    detectron2: float = 0.0
    detectron2_forwards: float = 0.0
    detectron2_pasting: float = 0.0
    others: float = 0.0

    @property
    def beyond(self) -> float:
        """The time of the grid beyond its forwards."""
        return self.grid - self.grid_forwards + self.scoring

    @property
    def detectron2_beyond(self) -> float:
        """The time of Detectron2 beyond its forwards."""
        return self.detectron2 - self.detectron2_forwards


def compare_grid(
    pretrained: Pretrained, points: Sequence[OperatingPoint], num_images: int, rounds: int
) -> list[TimedPair]:
    """
    An evaluation of test images at ``points`` against its bare forwards, and what it takes beyond
    the forwards against as many runs of Detectron2's ``inference_on_dataset`` with a
    ``COCOEvaluator``, scoring included. Times are of one image at one point.

    The three take turns, point by point. Counting costs and drawing figures, which Detectron2 does
    not do, and loading the ground truth are left out.

    Args:
        num_images: see :func:`some_images`.
    """
    with some_images(pretrained, num_images) as cfg, tempfile.TemporaryDirectory() as folder:
        task = build_task(cfg, pretrained.model)
        evaluation = _GridRound(cfg, pretrained, task, by_resolution(points))
        times = []
        for number in range(rounds + 1):
            logger.info(
                "Evaluating %d points: %d of %d rounds done", len(points), number, rounds + 1
            )
            times.append(evaluation.run(Path(folder) / str(number)))
        each = len(points) * len(task.records)
    times = times[1:]
    pairs = {
        "grid without pasting, against its bare forwards": [
            (t.grid - t.pasting, t.forwards) for t in times
        ],
        "grid, scored, beyond forwards and pasting, against Detectron2": [
            (t.beyond - t.pasting, t.detectron2_beyond - t.detectron2_pasting) for t in times
        ],
        "grid, scored, beyond forwards, against Detectron2": [
            (t.beyond, t.detectron2_beyond) for t in times
        ],
    }
    return [
        TimedPair.of(name, [(mine / each, other / each) for mine, other in both])
        for name, both in pairs.items()
    ]


class _GridRound:
    """An evaluation of the grid, in turn with what it is compared with."""

    def __init__(
        self,
        cfg: CfgNode,
        pretrained: Pretrained,
        task: Task,
        points: Sequence[OperatingPoint],
    ) -> None:
        self._cfg = cfg
        self._model = pretrained.model
        self._device = device_of(pretrained.model)
        self._at = pretrained.calibrations.at
        self._task = task
        self._points = points
        images = [read_record(record, cfg.INPUT.FORMAT) for record in task.records]
        self._views = {
            resolution: [evaluation_view(cfg, image, resolution) for image in images]
            for resolution in {point.resolution for point in points}
        }

    def run(self, output: Path) -> _GridTimes:
        times = _GridTimes()
        progress = Progress(output / "progress", self._points)
        with contextlib.closing(progress), evaluating(self._model, torch.get_num_threads()):
            progress.begin({}, torch.get_num_threads(), resume=False)
            self._task.begin(output)
            numbers = range(len(self._task.records))
            predictions = self._task.run(self._task.records, self._points, self._at)
            turns = self._in_turn(predictions, times)
            commit = partial(progress.part(0).commit, numbers, turns)
            total = elapsed(commit, self._device)
            times.grid = total - times.others
            not_counted = Cost({}, {}, 0, {})
            for point in self._points:
                scoring = partial(self._task.score, point, not_counted, progress, output)
                times.scoring += elapsed(scoring, self._device)
        return times

    def _in_turn(self, predictions: PointResults, times: _GridTimes) -> PointResults:
        """The same, with the others' turns after each point."""
        for point, results in predictions:
            times.grid_forwards += sum(result["milliseconds"] for result in results)
            start = time.perf_counter()
            with self._at(point):
                self._run_bare(point, times)
                self._run_detectron2(point, times)
            times.others += (time.perf_counter() - start) * 1000
            yield point, results

    def _run_bare(self, point: OperatingPoint, times: _GridTimes) -> None:
        for view, record in zip(self._views[point.resolution], self._task.records, strict=True):
            (instances, _), milliseconds = timed(self._model, view)
            times.forwards += milliseconds
            paste = partial(detector_postprocess, instances, record["height"], record["width"])
            times.pasting += elapsed(paste, self._device)

    def _run_detectron2(self, point: OperatingPoint, times: _GridTimes) -> None:
        resize = ResizeShortestEdge(point.resolution, self._cfg.INPUT.MAX_SIZE_TEST)
        mapper = DatasetMapper(
            is_train=False, augmentations=[resize], image_format=self._cfg.INPUT.FORMAT
        )
        # No processes of its own: the grid, too, reads images where it runs the model.
        loader = build_detection_test_loader(self._task.records, mapper=mapper, num_workers=0)
        model = _Detectron2Model(self._model)
        # pycocotools prints.
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            evaluator = COCOEvaluator(
                dataset_name(self._cfg),
                distributed=False,
                output_dir=folder,
                kpt_oks_sigmas=self._cfg.TEST.KEYPOINT_OKS_SIGMAS,
            )
            inference = partial(inference_on_dataset, model, loader, evaluator)
            times.detectron2 += elapsed(inference, self._device)
        times.detectron2_forwards += model.forwards
        times.detectron2_pasting += model.pasting


class _Detectron2Model:
    """
    A model as ``inference_on_dataset`` calls it.

    Attributes:
        forwards, pasting: ms that they took.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.forwards = self.pasting = 0.0

    def __call__(self, inputs: list[dict]) -> list[dict]:
        (item,) = inputs
        (instances, _), milliseconds = timed(self._model, item["image"])
        self.forwards += milliseconds
        start = time.perf_counter()
        instances = detector_postprocess(instances, item["height"], item["width"])
        wait_for(device_of(self._model))
        self.pasting += (time.perf_counter() - start) * 1000
        return [{"instances": instances}]


# Scoring -----------------------------------------------------------------------------------------


def compare_scoring(grid: Path, keypoint_sigmas: Sequence[float]) -> list[TimedPair]:
    """
    Hotcoco against pycocotools, on every point of an evaluated grid: one point, of each kind.

    Args:
        grid: a folder that `mutualnet evaluate` has written.

    Raises:
        BenchmarkError: for another folder; without hotcoco.
    """
    if not (grid / "ground_truth.json").is_file():
        raise BenchmarkError(
            f"{grid} holds no evaluated detector: there is no ground_truth.json. "
            "`mutualnet evaluate` writes it."
        )
    if default_evaluator() != "hotcoco":
        raise BenchmarkError(
            "hotcoco, which pycocotools is compared with, cannot be imported: "
            'pip install "mutualnet_det[eval]"'
        )
    logger.info("Scoring every point")
    truths = [load_ground_truth(str(grid / "ground_truth.json"), name) for name in EVALUATORS]
    timings = []
    for iou_type, kind in KIND_OF.items():
        pairs = []
        for path in sorted(grid.glob(f"detections/*.{iou_type}.json")):
            detections = json.loads(path.read_text(encoding="utf-8"))
            sigmas = keypoint_sigmas if iou_type == "keypoints" else ()
            mine, other = (
                elapsed(partial(score, truth, detections, iou_type, sigmas), CPU)
                for truth in truths
            )
            pairs.append((mine, other))
        if pairs:
            name = f"scoring a point's {kind} AP, {' against '.join(EVALUATORS)}"
            timings.append(TimedPair.of(name, pairs))
    return timings


# The predictor -----------------------------------------------------------------------------------


@torch.no_grad()
def compare_predictor(pretrained: Pretrained, num_images: int, rounds: int) -> list[TimedPair]:
    """
    The predictor, given a budget and an image, against Detectron2's model at the same point.

    Points take turns, so that each call of the predictor switches. The model is switched before its
    turn; its forward, too, follows one at another point, which leaves the processor's caches filled
    with other weights. A point is compared on an image of the point's size, which the model is
    given ready, and on one of the data set, which both resize, the model as Detectron2's
    ``DefaultPredictor`` does.

    Args:
        num_images: see :func:`some_images`.
    """
    cfg, model, calibrations, table, _ = pretrained
    device = device_of(model)
    predictor = BudgetPredictor(cfg, model, calibrations, table)
    entries = evenly(table.entries, NUM_ENTRIES)
    logger.info("Calling the predictor %d times at %d points", rounds, len(entries))
    with some_images(pretrained, num_images) as some:
        records = build_task(some, model).records
        images = [read_record(record, "BGR") for record in records]
    ready: dict[OperatingPoint, list[tuple[float, float]]] = {e.point: [] for e in entries}
    resized: dict[OperatingPoint, list[tuple[float, float]]] = {e.point: [] for e in entries}
    for number, image in enumerate(itertools.islice(itertools.cycle(images), rounds + 1)):
        views = [evaluation_view(cfg, image, entry.point.resolution) for entry in entries]
        given = [np.ascontiguousarray(view.permute(1, 2, 0).numpy()) for view in views]
        inputs = [partial(model, [_model_input(cfg, view)]) for view in views]
        steps = [partial(_default_predict, cfg, model, e.point.resolution, image) for e in entries]
        for times, seen, bare in (
            (ready, given, inputs),
            (resized, [image] * len(entries), steps),
        ):
            turns: dict[str, list[float]] = {"predictor": [], "model": []}
            # Either goes first: what ran before the two is not the same.
            for turn in sorted(turns, reverse=number % 2 == 0):
                for entry, pixels, forward in zip(entries, seen, bare, strict=True):
                    if turn == "predictor":
                        call = partial(predictor, pixels, gflops=entry.gflops)
                        turns[turn].append(elapsed(call, device))
                    else:
                        with calibrations.at(entry.point):
                            turns[turn].append(elapsed(forward, device))
            for entry, mine, other in zip(entries, turns["predictor"], turns["model"], strict=True):
                times[entry.point].append((mine, other))
    return [
        TimedPair.of(f"predictor at {point}{what}", times[point][1:])
        for times, what in (
            (ready, ", against the model alone"),
            (resized, " with resizing, against DefaultPredictor's steps"),
        )
        for point in times
    ]


def _model_input(cfg: CfgNode, view: Tensor) -> dict:
    """Detectron2's input for a BGR image (3, H, W)."""
    height, width = view.shape[1:]
    seen = view.flip(0) if cfg.INPUT.FORMAT == "RGB" else view
    return {"image": seen, "height": height, "width": width}


def _default_predict(cfg: CfgNode, model: nn.Module, resolution: int, image: np.ndarray) -> dict:
    """Predict on a BGR image (H, W, 3) in the steps of Detectron2's ``DefaultPredictor``."""
    if cfg.INPUT.FORMAT == "RGB":
        image = image[:, :, ::-1]
    height, width = image.shape[:2]
    resize = ResizeShortestEdge([resolution, resolution], cfg.INPUT.MAX_SIZE_TEST)
    seen = resize.get_transform(image).apply_image(image)
    seen = torch.as_tensor(seen.astype("float32").transpose(2, 0, 1))
    return model([{"image": seen, "height": height, "width": width}])[0]


# Exports -----------------------------------------------------------------------------------------


def compare_exports(pretrained: Pretrained, num_images: int, rounds: int) -> list[TimedPair]:
    """
    The cheapest and the dearest point of the query table, exported in every format that takes the
    model, against the model at the point: forwards on resized images.

    Args:
        pretrained: on the CPU.
        num_images: see :func:`some_images`.
    """
    with some_images(pretrained, num_images) as cfg:
        records = build_task(cfg, pretrained.model).records
        images = [read_record(record, cfg.INPUT.FORMAT) for record in records]
    files = [record["file_name"] for record in records]
    pairs: dict[str, list[tuple[float, float]]] = {}
    for entry in evenly(pretrained.table.entries, 2):
        point = entry.point
        logger.info("Exporting %s", point)
        runners = _exported(pretrained, point, files[:2])
        views = [evaluation_view(cfg, image, point.resolution) for image in images]
        with pretrained.calibrations.at(point):
            seen = itertools.islice(itertools.cycle(views), WARM_UP + rounds)
            for number, view in enumerate(seen):
                for name, runner in runners.items():
                    turns = {
                        "export": partial(runner, [view]),
                        "model": partial(run, pretrained.model, [view]),
                    }
                    # Either goes first, as above.
                    order = sorted(turns, reverse=number % 2 == 0)
                    times = {turn: elapsed(turns[turn], CPU) for turn in order}
                    pairs.setdefault(name, []).append((times["export"], times["model"]))
    return [
        TimedPair.of(f"{name}, against the model", times[WARM_UP:]) for name, times in pairs.items()
    ]


def _exported(
    pretrained: Pretrained, point: OperatingPoint, files: Sequence[str]
) -> dict[str, Runner]:
    """Export a point in every format that takes it: the exports' runners, by a name for each."""
    runners = {}
    for name, form in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                export_point(pretrained, point, name, Path(folder) / name, files)
            except ExportError as error:
                logger.warning("No export as %s: %s", name, error)
                continue
            runners[f"{point} exported as {name}"] = form.load(Path(folder) / name)
    return runners

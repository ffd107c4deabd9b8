"""
COCO's evaluation protocol: by hotcoco where that is installed, by pycocotools elsewhere.

Both find the same precision, bit for bit; hotcoco in a tenth of the time or less, and in less
memory. Each is called as it is: nothing is put in the place of pycocotools for others.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.coco_check import by_class

# All of a ground truth that decides on a score. hotcoco is strict about the types of the rest.
_KEYS = {
    "images": ("id", "height", "width"),
    "categories": ("id", "name"),
    "annotations": (
        *("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
        *("segmentation", "keypoints", "num_keypoints"),
    ),
}


class Evaluator(Protocol):
    """
    The ground truth of a data set, to compare any number of results with.

    Attributes:
        categories: names, by rising id.
    """

    categories: list[str]

    def precision(
        self, results: list[dict[str, Any]], iou_type: str, keypoint_sigmas: Sequence[float]
    ) -> np.ndarray:
        """
        Args:
            results: as a COCO results file of one type holds them; may be empty, may be written to.
            iou_type: "bbox", "segm" or "keypoints".
            keypoint_sigmas: COCO's own, of people, if there are none.

        Returns:
            (T, R, K, A, M) precision at T IoU thresholds and R recalls, of K categories, in A
            ranges of area, with M numbers of detections per image; -1 where there is nothing to
            find.
        """


class PycocotoolsEvaluator:
    """Evaluation by pycocotools; see :class:`Evaluator`."""

    def __init__(self, ground_truth: dict[str, Any]) -> None:
        self._truth = _pycocotools_index(_relevant(ground_truth))
        self.categories = _category_names(ground_truth)

    def precision(
        self, results: list[dict[str, Any]], iou_type: str, keypoint_sigmas: Sequence[float]
    ) -> np.ndarray:
        evaluation = self.evaluation(results, iou_type)
        with contextlib.redirect_stdout(io.StringIO()):
            if keypoint_sigmas:
                evaluation.params.kpt_oks_sigmas = np.asarray(keypoint_sigmas)
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval["precision"]

    def evaluation(self, results: list[dict[str, Any]], iou_type: str) -> COCOeval:
        """Pycocotools' own evaluation of ``results``, not run yet."""
        with contextlib.redirect_stdout(io.StringIO()):
            if results:
                detections = self._truth.loadRes(results)
            else:  # loadRes takes no empty list
                detections = _pycocotools_index({**self._truth.dataset, "annotations": []})
            return COCOeval(self._truth, detections, iou_type)


class HotcocoEvaluator:
    """Evaluation by hotcoco, ImportError without it; see :class:`Evaluator`."""

    def __init__(self, ground_truth: dict[str, Any]) -> None:
        import hotcoco

        self._evaluation = hotcoco.COCOeval
        self._truth = hotcoco.COCO(_relevant(ground_truth))
        self.categories = _category_names(ground_truth)

    def precision(
        self, results: list[dict[str, Any]], iou_type: str, keypoint_sigmas: Sequence[float]
    ) -> np.ndarray:
        evaluation = self._evaluation(self._truth, self._truth.load_res(results), iou_type)
        if keypoint_sigmas:
            evaluation.params.kpt_oks_sigmas = list(keypoint_sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval["precision"]


# The better first.
EVALUATORS: dict[str, type[Evaluator]] = {
    "hotcoco": HotcocoEvaluator,
    "pycocotools": PycocotoolsEvaluator,
}


def default_evaluator() -> str:
    """The one of ``EVALUATORS`` that is used."""
    try:
        import hotcoco  # noqa: F401
    except ImportError:
        return "pycocotools"
    return "hotcoco"


def evaluator_version() -> str:
    """The default evaluator with its version, such as "hotcoco 1.3.0"."""
    name = default_evaluator()
    return f"{name} {importlib.metadata.version(name)}"


def _pycocotools_index(dataset: dict[str, Any]) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = dataset
        index.createIndex()
    return index


def _relevant(ground_truth: dict[str, Any]) -> dict[str, Any]:
    """A copy of what is scored: pycocotools writes into the annotations, and wants "info"."""
    copied = {
        part: [{key: record[key] for key in keys if key in record} for record in ground_truth[part]]
        for part, keys in _KEYS.items()
    }
    return {"info": {}, **copied}


def _category_names(ground_truth: dict[str, Any]) -> list[str]:
    return [category["name"] for category in by_class(ground_truth)]

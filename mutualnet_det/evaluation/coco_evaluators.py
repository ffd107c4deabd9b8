"""
COCO's evaluation protocol: by hotcoco where that is installed, by pycocotools elsewhere.

Both find the same precision, bit for bit; hotcoco in a tenth of the time or less, and in less
memory. Each is called as it is: nothing is put in the place of pycocotools for others.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.coco_check import by_class
from ..data.faults import DatasetError

# The detections of one category in an image that COCO counts: those with the highest scores.
COCO_LIMITS = {"bbox": 100, "segm": 100, "keypoints": 20}

# All of a ground truth that decides on a score. hotcoco is strict about the types of the rest.
_KEYS = {
    "images": ("id", "height", "width"),
    "categories": ("id", "name"),
    "annotations": (
        *("image_id", "category_id", "bbox", "area", "iscrowd"),
        *("segmentation", "keypoints", "num_keypoints"),
    ),
}
_LVIS_KEYS = {
    "images": ("id", "height", "width", "neg_category_ids", "not_exhaustive_category_ids"),
    "categories": ("id", "name", "frequency"),
    "annotations": (*("id", "image_id", "category_id"), *("bbox", "area", "segmentation")),
}


class Evaluator(Protocol):
    """
    The ground truth of a data set, to compare any number of results with.

    Ids of images, categories and annotations may be of any kind that can be sorted.

    Attributes:
        categories: names, by rising id.
        groups: of categories, by their places there, whose mean is a metric of its own.
    """

    categories: list[str]
    groups: dict[str, list[int]]

    def precision(
        self, results: list[dict[str, Any]], iou_type: str, keypoint_sigmas: Sequence[float]
    ) -> np.ndarray:
        """
        Args:
            results: as a COCO results file of one type holds them; may be empty; are written to.
            iou_type: "bbox", "segm" or "keypoints".
            keypoint_sigmas: COCO's own, of people, if there are none.

        Returns:
            (T, R, K, A, M) precision at T IoU thresholds and R recalls, of K categories, in A
            ranges of area; -1 where there is nothing to find. M is 1, with as many detections
            counted as COCO counts; where an image has more objects, it is 2, with all counted last.

        Raises:
            ValueError: for a result of an image or a category that the ground truth lacks.
        """


def objects_per_image(annotations: Iterable[dict[str, Any]], iou_type: str) -> Counter[Any]:
    """The number of objects to find in each image, by its id; an image without any has none."""
    return Counter(
        annotation["image_id"]
        for annotation in annotations
        if not annotation.get("iscrowd")
        and (iou_type != "keypoints" or annotation.get("num_keypoints"))
    )


class _Numbering:
    """
    Numbers from 1 in the place of the ids of a ground truth, whatever these are.

    pycocotools takes a match with id 0 for none, and sorts ids by NumPy, which makes
    floating-point numbers of integers of 64 bits without a sign: these name no image any more.

    Attributes:
        categories: names, by rising id.
    """

    def __init__(self, ground_truth: dict[str, Any]) -> None:
        categories = by_class(ground_truth)
        self.categories = [category["name"] for category in categories]
        # In the order of the ids, which decides between equal scores.
        ids = {
            "image_id": sorted(image["id"] for image in ground_truth["images"]),
            "category_id": [category["id"] for category in categories],
        }
        self._numbers = {
            key: {id_: number for number, id_ in enumerate(of_key, start=1)}
            for key, of_key in ids.items()
        }
        self._most_objects = {
            iou_type: max(
                objects_per_image(ground_truth["annotations"], iou_type).values(), default=0
            )
            for iou_type in COCO_LIMITS
        }

    def numbered(self, ground_truth: dict[str, Any]) -> dict[str, Any]:
        """A copy of what is scored: pycocotools writes into the annotations, and wants "info"."""
        copied = {
            part: [
                {key: record[key] for key in keys if key in record} for record in ground_truth[part]
            ]
            for part, keys in _KEYS.items()
        }
        for key, part in (("image_id", "images"), ("category_id", "categories")):
            for record in copied[part]:
                record["id"] = self._numbers[key][record["id"]]
        for number, annotation in enumerate(copied["annotations"], start=1):
            annotation["id"] = number
        self.renumber(copied["annotations"])
        return {"info": {}, **copied}

    def renumber(self, records: Iterable[dict[str, Any]]) -> None:
        """Put numbers in the place of the records' ids; ValueError for one that is unknown."""
        for key, numbers in self._numbers.items():
            for record in records:
                if record[key] not in numbers:
                    raise ValueError(f"The ground truth has no record of {key} {record[key]!r}.")
                record[key] = numbers[record[key]]

    def limits(self, results: Iterable[dict[str, Any]], iou_type: str) -> list[int]:
        """The numbers of detections in an image that count, see :meth:`Evaluator.precision`."""
        limit = COCO_LIMITS[iou_type]
        if self._most_objects[iou_type] <= limit:
            return [limit]
        detections = Counter(result["image_id"] for result in results)
        return [limit, max(limit, *detections.values())]


class PycocotoolsEvaluator:
    """Evaluation by pycocotools; see :class:`Evaluator`."""

    groups: dict[str, list[int]] = {}

    def __init__(self, ground_truth: dict[str, Any]) -> None:
        self._numbering = _Numbering(ground_truth)
        self._truth = _pycocotools_index(self._numbering.numbered(ground_truth))
        self.categories = self._numbering.categories

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
        self._numbering.renumber(results)
        with contextlib.redirect_stdout(io.StringIO()):
            if results:
                detections = self._truth.loadRes(results)
            else:  # loadRes takes no empty list
                detections = _pycocotools_index({**self._truth.dataset, "annotations": []})
            evaluation = COCOeval(self._truth, detections, iou_type)
        evaluation.params.maxDets = self._numbering.limits(results, iou_type)
        return evaluation


class HotcocoEvaluator:
    """Evaluation by hotcoco, ImportError without it; see :class:`Evaluator`."""

    groups: dict[str, list[int]] = {}

    def __init__(self, ground_truth: dict[str, Any]) -> None:
        import hotcoco

        self._evaluation = hotcoco.COCOeval
        self._numbering = _Numbering(ground_truth)
        self._truth = hotcoco.COCO(self._numbering.numbered(ground_truth))
        self.categories = self._numbering.categories

    def precision(
        self, results: list[dict[str, Any]], iou_type: str, keypoint_sigmas: Sequence[float]
    ) -> np.ndarray:
        self._numbering.renumber(results)
        evaluation = self._evaluation(self._truth, self._truth.load_res(results), iou_type)
        evaluation.params.max_dets = self._numbering.limits(results, iou_type)
        if keypoint_sigmas:
            evaluation.params.kpt_oks_sigmas = list(keypoint_sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        return evaluation.eval["precision"]


class LvisEvaluator:
    """
    Evaluation by LVIS's rules (arXiv 1908.03195), as hotcoco has them; see :class:`Evaluator`.

    Of an image, detections count of classes that it has an object of, or that are known not to be
    there (``neg_category_ids``); of one that not all objects are marked of
    (``not_exhaustive_category_ids``), what finds nothing does not count. 300 detections of an image
    count, of all classes together.

    Raises:
        DatasetError: for a ground truth that does not say what was looked for.
    """

    def __init__(self, ground_truth: dict[str, Any]) -> None:
        import hotcoco

        self._hotcoco = hotcoco
        truth = {
            part: [
                {key: record[key] for key in keys if key in record} for record in ground_truth[part]
            ]
            for part, keys in _LVIS_KEYS.items()
        }
        for part in ("images", "categories"):
            for record in truth[part]:
                missing = next((key for key in _LVIS_KEYS[part] if key not in record), None)
                if missing:
                    raise DatasetError(
                        f"{missing!r} is missing in the record {record['id']} of {part}: LVIS's "
                        "rules need it."
                    )
        self._truth = hotcoco.COCO(truth)
        categories = by_class(truth)
        self.categories = [category["name"] for category in categories]
        self.groups = {
            f"AP{frequency}": [
                place for place, c in enumerate(categories) if c["frequency"] == frequency
            ]
            for frequency in "rcf"
        }

    def precision(
        self, results: list[dict[str, Any]], iou_type: str, keypoint_sigmas: Sequence[float]
    ) -> np.ndarray:
        detections = self._truth.load_res(results)
        evaluation = self._hotcoco.COCOeval(self._truth, detections, iou_type, lvis_style=True)
        evaluation.evaluate()
        evaluation.accumulate()
        assert evaluation.eval is not None  # accumulated
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

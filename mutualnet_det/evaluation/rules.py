"""
Whose rules detections are scored by: those that a data set was published with.

Each gives what :func:`~mutualnet_det.evaluation.scoring.score` gives; a metric that its rules do
not have is None.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation.pascal_voc_evaluation import parse_rec, voc_eval
from PIL import Image
from pycocotools import mask as mask_util

from ..data.coco_check import by_class
from ..data.faults import DatasetError
from .coco_evaluators import LvisEvaluator, evaluator_version
from .scoring import AP_METRICS, Detection, load_ground_truth, score


class CocoRules:
    """
    COCO's AP; the base of the others, for what these do not score.

    Args:
        ground_truth: a COCO data set.
        metadata: of the registered data set.
        sigmas: of keypoints, see :func:`~mutualnet_det.evaluation.scoring.score`.

    Attributes:
        name: of the rules, for people; "" for COCO's.
        package: that they need beside what is always there, and the project's extra that has it.
    """

    name = ""
    package: tuple[str, str] | None = None

    def __init__(
        self, ground_truth: dict[str, Any], metadata: Metadata, sigmas: Sequence[float] = ()
    ) -> None:
        self._truth = load_ground_truth(ground_truth)
        self._sigmas = sigmas

    def __call__(self, detections: Sequence[Detection], iou_type: str) -> dict[str, Any]:
        """The scores of COCO results of type "bbox", "segm" or "keypoints"."""
        sigmas = self._sigmas if iou_type == "keypoints" else ()
        return score(self._truth, detections, iou_type, sigmas)


class LvisRules(CocoRules):
    """
    LVIS's federated AP (arXiv 1908.03195): a class counts on the images where it was looked for.

    APr, APc and APf are of the rare, common and frequent classes.
    """

    name = "hotcoco, by LVIS's rules"
    package = "hotcoco", "eval"

    def __init__(
        self, ground_truth: dict[str, Any], metadata: Metadata, sigmas: Sequence[float] = ()
    ) -> None:
        self._truth, self._sigmas = LvisEvaluator(ground_truth), sigmas


class VocRules(CocoRules):
    """
    Pascal VOC's AP of boxes, as Detectron2 computes it; AP50 is VOC's own metric.

    Objects that are marked as difficult do not count. On VOC 2007, precision is read off at 11
    recalls.
    """

    name = "Detectron2, by Pascal VOC's rules"

    def __init__(
        self, ground_truth: dict[str, Any], metadata: Metadata, sigmas: Sequence[float] = ()
    ) -> None:
        super().__init__(ground_truth, metadata, sigmas)
        images = ground_truth["images"]
        self._names = {image["id"]: Path(image["file_name"]).stem for image in images}
        self._classes = {c["id"]: c["name"] for c in by_class(ground_truth)}
        self._annotations = str(Path(metadata.dirname, "Annotations", "{}.xml"))
        files = map(self._annotations.format, self._names.values())
        objects = [thing for file in files for thing in parse_rec(file)]
        self._there = {thing["name"] for thing in objects if not thing["difficult"]}
        self._is_2007 = metadata.year == 2007

    def __call__(self, detections: Sequence[Detection], iou_type: str) -> dict[str, Any]:
        if iou_type != "bbox":
            return super().__call__(detections, iou_type)
        lines = defaultdict(list)
        for found in detections:
            x, y, width, height = found["bbox"]
            # Pixels are counted from 1, and to the last one.
            corners = (x + 1, y + 1, x + width, y + height)
            text = " ".join(f"{corner:.1f}" for corner in corners)
            name = self._names[found["image_id"]]
            lines[found["category_id"]].append(f"{name} {found['score']:.3f} {text}")
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder, "images.txt")
            images.write_text("\n".join(self._names.values()))
            results = f"{folder}/{{}}.results"
            percents = {}
            for id_, name in self._classes.items():
                Path(results.format(name)).write_text("\n".join(lines[id_]))
                if name in self._there:
                    percents[name] = [
                        100 * self._ap(results, str(images), name, threshold / 100)
                        for threshold in range(50, 100, 5)
                    ]
        table = np.array(list(percents.values()))
        means = {"AP": table, "AP50": table[:, 0], "AP75": table[:, 5]} if percents else {}
        return {
            **dict.fromkeys(AP_METRICS),
            **{metric: float(values.mean()) for metric, values in means.items()},
            "per_class": {
                name: float(np.mean(percents[name])) if name in percents else None
                for name in self._classes.values()
            },
        }

    def _ap(self, results: str, images: str, name: str, threshold: float) -> float:
        *_, ap = voc_eval(results, self._annotations, images, name, threshold, self._is_2007)
        return float(ap)


class CityscapesRules(CocoRules):
    """Cityscapes' AP of masks, by its own package; boxes are scored by COCO's rules."""

    name = "cityscapesScripts, by Cityscapes' rules"
    package = "cityscapesscripts", "cityscapes"

    def __init__(
        self, ground_truth: dict[str, Any], metadata: Metadata, sigmas: Sequence[float] = ()
    ) -> None:
        from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as rules
        from cityscapesscripts.helpers.labels import name2label

        super().__init__(ground_truth, metadata, sigmas)
        self._rules = rules
        self._labels = {c["id"]: name2label[c["name"]].id for c in ground_truth["categories"]}
        images = ground_truth["images"]
        self._images = {image["id"]: Path(image["file_name"]) for image in images}
        truths = Path(metadata.gt_dir).resolve()
        self._truths = {
            id_: truths / path.parent.name / _truth_name(path.name)
            for id_, path in self._images.items()
        }

    def __call__(self, detections: Sequence[Detection], iou_type: str) -> dict[str, Any]:
        if iou_type != "segm":
            return super().__call__(detections, iou_type)
        by_image = defaultdict(list)
        for found in detections:
            by_image[found["image_id"]].append(found)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            predictions = [self._write(Path(folder), id_, by_image[id_]) for id_ in self._images]
            args = self._rules.args
            args.predictionPath, args.predictionWalk = folder, None
            args.JSONOutput = args.colorized = False
            args.gtInstancesFile = str(Path(folder, "truth.json"))
            truths = list(map(str, self._truths.values()))
            with _working_in(folder):  # where it leaves a file
                averages = self._rules.evaluateImgLists(predictions, truths, args)["averages"]
        return {
            **dict.fromkeys(AP_METRICS),
            "AP": _percent(averages["allAp"]),
            "AP50": _percent(averages["allAp50%"]),
            "per_class": {
                name: _percent(values["ap"]) for name, values in averages["classes"].items()
            },
        }

    def _write(self, folder: Path, image_id: int, detections: Sequence[Detection]) -> str:
        """Write an image's detections as Cityscapes reads them: a list, and a picture of each."""
        stem = self._images[image_id].stem
        lines = []
        for number, found in enumerate(detections):
            name = f"{stem}_{number}.png"
            Image.fromarray(255 * mask_util.decode(found["segmentation"])).save(folder / name)
            lines.append(f"{name} {self._labels[found['category_id']]} {found['score']}\n")
        path = folder / f"{stem}_pred.txt"
        path.write_text("".join(lines))
        return str(path)


@contextlib.contextmanager
def _working_in(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _truth_name(image: str) -> str:
    return image.replace("_leftImg8bit.png", "_gtFine_instanceIds.png")


def _percent(fraction: float) -> float | None:
    return None if np.isnan(fraction) else 100 * float(fraction)


# By the name that Detectron2 gives to how a data set is scored; all others are scored as COCO is.
RULES: dict[str, type[CocoRules]] = {
    "lvis": LvisRules,
    "pascal_voc": VocRules,
    "cityscapes_instance": CityscapesRules,
}


def rules_of(dataset: str) -> type[CocoRules]:
    """
    The rules of a registered data set.

    Raises:
        DatasetError: without a package that they need.
    """
    rules = RULES.get(MetadataCatalog.get(dataset).get("evaluator_type"), CocoRules)
    if rules.package is not None:
        package, extra = rules.package
        if importlib.util.find_spec(package) is None:
            raise DatasetError(
                f"The data set {dataset!r} is scored by {package}, which is missing: pip install "
                f'"mutualnet_det[{extra}]".'
            )
    return rules


def rules_name(rules: type[CocoRules]) -> str:
    """What scores by these rules, for people."""
    return rules.name or evaluator_version()

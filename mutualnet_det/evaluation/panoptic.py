"""Evaluating panoptic segmentation: panoptic quality (Kirillov et al., arXiv 1801.00868)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import PanopticFPN
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Instances
from PIL import Image

from ..data.faults import DatasetError
from ..data.flags import read_flag
from ..data.masks import decoded

# Whether it is a thing, and its class index among the things or the stuff.
Category = tuple[bool, int]
# Of one category on some images: thing, class, sum of the matches' IoU, and the number of matches
# (true positives), of segments found in vain and of segments missed.
Matches = list[tuple[bool, int, float, int, int, int]]

MATCH_IOU = 0.5  # above it a match is unique
VOID = 0  # id of pixels without a segment
# Class 0 of a panoptic network's semantic head stands for all things.
THINGS = 0


class Segments:
    """
    A panoptic segmentation.

    Attributes:
        ids: (H, W), the segment of each pixel, 0 for none.
        categories: by id.
        crowds: the ids that stand for a group of things; they are never found or missed.
    """

    def __init__(
        self,
        ids: np.ndarray,
        categories: Mapping[int, Category],
        crowds: Iterable[int] = (),
    ) -> None:
        self.ids = ids.astype(np.int64)
        self.categories = dict(categories)
        self.crowds = set(crowds)


def match_segments(truth: Segments, predicted: Segments) -> Matches:
    """
    Compare two segmentations of one image.

    A segment is matched by one of the same category that overlaps it by more than half of their
    union. Where the truth has no segment, or a crowd of the category, nothing is found in vain.
    """
    pairs, counts = np.unique(
        np.stack([truth.ids.ravel(), predicted.ids.ravel()]), axis=1, return_counts=True
    )
    overlap = {(int(t), int(f)): int(n) for t, f, n in zip(*pairs, counts, strict=True)}
    true_area: dict[int, int] = defaultdict(int)
    predicted_area: dict[int, int] = defaultdict(int)
    for (t, f), count in overlap.items():
        true_area[t] += count
        predicted_area[f] += count

    sums: dict[Category, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
    matched_true, matched_predicted = set(), set()
    for (t, f), count in overlap.items():
        if VOID in (t, f) or t in truth.crowds or truth.categories[t] != predicted.categories[f]:
            continue
        union = true_area[t] + predicted_area[f] - count - overlap.get((VOID, f), 0)
        if count / union > MATCH_IOU:
            matched_true.add(t)
            matched_predicted.add(f)
            sums[truth.categories[t]][0] += count / union
            sums[truth.categories[t]][1] += 1
    for f, category in predicted.categories.items():
        if f in matched_predicted or f not in predicted_area:
            continue
        excused = overlap.get((VOID, f), 0) + sum(
            overlap.get((t, f), 0) for t in truth.crowds if truth.categories[t] == category
        )
        if excused / predicted_area[f] <= MATCH_IOU:
            sums[category][2] += 1
    for t, category in truth.categories.items():
        if t in true_area and t not in matched_true and t not in truth.crowds:
            sums[category][3] += 1
    return [(*category, *values) for category, values in sorted(sums.items())]


class PanopticScorer:
    """
    Compares what a Panoptic FPN finds with a data set.

    Args:
        model: says how its two outputs are combined.
        dataset: in Detectron2's "panoptic separated" format. Where its metadata has no
            ``panoptic_json``, the truth is put together from the objects' masks, the later on top,
            and the stuff beside them.
        ignored: label of pixels without a class, in the semantic masks.
    """

    def __init__(self, model: PanopticFPN, dataset: str, ignored: int) -> None:
        self._model = model
        self._metadata = MetadataCatalog.get(dataset)
        self._ignored = ignored
        self._annotations: dict[int, dict] | None = None
        self._json_file: str | None = self._metadata.get("panoptic_json")
        if self._json_file is not None:
            if not Path(self._json_file).is_file():
                raise DatasetError(
                    f"The data set {dataset!r} is not there: no file {self._json_file}."
                )
            content = json.loads(Path(self._json_file).read_bytes())
            self._annotations = {a["image_id"]: a for a in content["annotations"]}

    def files(self, records: Iterable[dict]) -> list[str]:
        """
        The files that say what each pixel of the images is.

        Raises:
            DatasetError: for an image that ``panoptic_json`` does not know.
        """
        masks = [record["sem_seg_file_name"] for record in records]
        if self._annotations is None:
            return masks
        segments = [self._segments_file(record) for record in records]
        return [*masks, self._json_file, *segments]

    def _segments_file(self, record: dict) -> str:
        annotation = self._annotations.get(record["image_id"])
        if annotation is None:
            raise DatasetError(f"{self._json_file} has no segments of {record['file_name']}.")
        return str(Path(self._metadata.panoptic_root) / annotation["file_name"])

    def matches(self, instances: Instances, classes: torch.Tensor, record: dict) -> Matches:
        """
        Match the segments of one image.

        Args:
            instances: detections with masks (H, W) at the size of the image on disk.
            classes: the pixels' classes (H, W), of the semantic head.
        """
        ids, infos = combine_semantic_and_instance_outputs(
            instances,
            classes,
            self._model.combine_overlap_thresh,
            self._model.combine_stuff_area_thresh,
            self._model.combine_instances_score_thresh,
        )
        categories = {info["id"]: (info["isthing"], info["category_id"]) for info in infos}
        truth = self._composed(record) if self._annotations is None else self._published(record)
        predicted = Segments(ids.cpu().numpy(), categories)
        if truth.ids.shape != predicted.ids.shape:
            raise DatasetError(
                f"The segments of {record['file_name']} are {truth.ids.shape[1]} x "
                f"{truth.ids.shape[0]} px, it is {predicted.ids.shape[1]} x "
                f"{predicted.ids.shape[0]}."
            )
        return match_segments(truth, predicted)

    def _published(self, record: dict) -> Segments:
        """COCO's panoptic format: a PNG whose colours count the segments in base 256."""
        annotation = self._annotations[record["image_id"]]
        with Image.open(self._segments_file(record)) as file:
            pixels = np.asarray(file.convert("RGB"), np.int64)
        things = self._metadata.thing_dataset_id_to_contiguous_id
        stuff = self._metadata.stuff_dataset_id_to_contiguous_id
        categories, crowds = {}, []
        for info in annotation["segments_info"]:
            of = info["category_id"]
            categories[info["id"]] = (True, things[of]) if of in things else (False, stuff[of])
            if read_flag(info.get("iscrowd")):
                crowds.append(info["id"])
        ids = pixels @ np.array([1, 256, 256**2])
        ids[~np.isin(ids, list(categories))] = VOID
        return Segments(ids, categories, crowds)

    def _composed(self, record: dict) -> Segments:
        with Image.open(record["sem_seg_file_name"]) as file:
            stuff = np.asarray(file)
        ids = np.full(stuff.shape, VOID, np.int64)
        categories: dict[int, Category] = {}
        crowds = []
        for label in np.unique(stuff).tolist():
            if label not in (THINGS, self._ignored):
                categories[len(categories) + 1] = (False, label)
                ids[stuff == label] = len(categories)
        for annotation in record["annotations"]:
            categories[len(categories) + 1] = (True, annotation["category_id"])
            ids[decoded(annotation["segmentation"], *stuff.shape)] = len(categories)
            if annotation.get("iscrowd", 0):
                crowds.append(len(categories))
        return Segments(ids, categories, crowds)

    def score(self, matches: Iterable[Matches]) -> dict[str, Any]:
        """
        Returns:
            dict: in percent ``PQ``, ``SQ`` and ``RQ``: panoptic, segmentation and recognition
            quality, means over the categories that were there or found; ``PQ_things`` and
            ``PQ_stuff``, and ``per_class``: the PQ by name.
        """
        sums: dict[Category, np.ndarray] = defaultdict(lambda: np.zeros(4))
        for image in matches:
            for is_thing, index, *values in image:
                sums[bool(is_thing), index] += values
        rows = {}
        for category, (iou, hits, vain, missed) in sorted(sums.items()):
            recognition = hits / (hits + (vain + missed) / 2)
            segmentation = iou / hits if hits else 0.0
            rows[category] = 100 * np.array([recognition * segmentation, segmentation, recognition])
        return {
            **dict(zip(("PQ", "SQ", "RQ"), _means(rows.values(), 3), strict=True)),
            "PQ_things": _means([row[:1] for (thing, _), row in rows.items() if thing], 1)[0],
            "PQ_stuff": _means([row[:1] for (thing, _), row in rows.items() if not thing], 1)[0],
            "per_class": {self._name(category): float(row[0]) for category, row in rows.items()},
        }

    def _name(self, category: Category) -> str:
        is_thing, index = category
        names = self._metadata.get("thing_classes" if is_thing else "stuff_classes")
        return names[index] if names else f"{'thing' if is_thing else 'stuff'} {index}"


def _means(rows: Iterable[np.ndarray], count: int) -> list[float | None]:
    scored = list(rows)
    return np.mean(scored, axis=0).tolist() if scored else [None] * count

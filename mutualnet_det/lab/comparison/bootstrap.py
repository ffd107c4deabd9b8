"""
Scores on resampled images: how far a score depends on which images were at hand.

Accuracy is a mean over images. For COCO AP, matching detections with objects does not depend on the
other images, so it is done once. An image that is drawn n times counts n times: what pycocotools
finds on a data set with n copies of it, as long as no two detections of one category in one image
have the same score.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...evaluation.coco_evaluators import PycocotoolsEvaluator
from ...evaluation.scoring import RESULT_KEYS, Detection, only
from ...seeding import stream

# The kinds of score that can be resampled, and so compared.
COMPARED = ("box", "mask", "class")
# Numbers of a table (resamples, thresholds, detections) that is computed at once: 32 MB.
BLOCK = 4_000_000
# As pycocotools guards against 0 / 0.
EPSILON = float(np.spacing(1))


@dataclass(frozen=True)
class CategoryMatches:
    """
    The detections of one category, by falling score: D detections, of an image as many as AP
    counts, T IoU thresholds, N images.

    Attributes:
        image: (D,) the index of each detection's image.
        right: (T, D) whether it found an object.
        counted: (T, D) whether it counts at all: one that found a crowd does not.
        objects: (N,) the number of objects to find in each image.
    """

    image: Tensor
    right: Tensor
    counted: Tensor
    objects: Tensor


def resample(num_images: int, resamples: int) -> Tensor:
    """
    Count how often each image is drawn in each bootstrap sample of ``num_images`` with replacement:
    (resamples, num_images). Always the same, so that any two scores are compared on the same draws.
    """
    drawn = stream("bootstrap", 0, num_images).integers(num_images, size=(resamples, num_images))
    counts = [np.bincount(row, minlength=num_images) for row in drawn]
    return torch.from_numpy(np.stack(counts))


def resampled_accuracy(hits: Sequence[bool], resamples: int) -> np.ndarray:
    """(resamples,) accuracy in percent of each resample of images that are right, or not."""
    counts = resample(len(hits), resamples).double()
    return 100 * (counts @ torch.tensor(hits).double()).numpy() / len(hits)


class Bootstrap:
    """
    The AP of detections on resampled images.

    Args:
        ground_truth: a COCO data set.
        resamples: how many.
    """

    def __init__(self, ground_truth: dict[str, Any], resamples: int) -> None:
        self._truth = PycocotoolsEvaluator(ground_truth)
        self._counts = resample(len(ground_truth["images"]), resamples)

    def ap(self, detections: list[Detection], iou_type: str) -> np.ndarray:
        """
        (resamples,) AP in percent of each resample, NaN for one without objects.

        Args:
            detections: COCO results; may be empty.
            iou_type: "bbox" or "segm".
        """
        if iou_type not in RESULT_KEYS:
            raise ValueError(f"iou_type is {iou_type!r}; expected one of {', '.join(RESULT_KEYS)}.")
        evaluation = self._truth.evaluation(list(only(iou_type, detections)), iou_type)
        evaluation.params.areaRng = evaluation.params.areaRng[:1]  # of any area
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        recalls = torch.from_numpy(evaluation.params.recThrs)
        num_images = len(evaluation.params.imgIds)
        groups = [
            _matches(evaluation.evalImgs[start : start + num_images])
            for start in range(0, len(evaluation.evalImgs), num_images)
        ]
        most = max((group.counted.numel() for group in groups), default=0)
        blocks = self._counts.split(max(BLOCK // max(most, 1), 1))
        return torch.cat([_mean_ap(groups, counts, recalls) for counts in blocks]).numpy()


def _matches(images: list[dict[str, Any] | None]) -> CategoryMatches:
    """
    Join pycocotools' matches of one category.

    Args:
        images: in order; None for one with nothing of the category in it.
    """
    objects = [0 if match is None else int((match["gtIgnore"] == 0).sum()) for match in images]
    present = [(number, match) for number, match in enumerate(images) if match is not None]
    if not present:
        empty = torch.zeros(1, 0, dtype=torch.bool)
        return CategoryMatches(torch.zeros(0).long(), empty, empty, torch.tensor(objects))
    scores = np.concatenate([match["dtScores"] for _, match in present])
    order = np.argsort(-scores, kind="mergesort")  # pycocotools' order of equal scores
    image = np.concatenate([[number] * len(match["dtScores"]) for number, match in present])
    ignored = np.concatenate([match["dtIgnore"] for _, match in present], axis=1)[:, order] > 0
    matched = np.concatenate([match["dtMatches"] for _, match in present], axis=1)[:, order] > 0
    return CategoryMatches(
        torch.from_numpy(image[order].astype(np.int64)),
        torch.from_numpy(matched & ~ignored),
        torch.from_numpy(~ignored),
        torch.tensor(objects),
    )


def _mean_ap(groups: list[CategoryMatches], counts: Tensor, recalls: Tensor) -> Tensor:
    """(B,) AP in percent with the images counted as (B, N) ``counts`` say."""
    by_category = torch.stack([_category_ap(group, counts, recalls) for group in groups])
    return 100 * by_category.nanmean(dim=0)


def _category_ap(group: CategoryMatches, counts: Tensor, recalls: Tensor) -> Tensor:
    """(B,) mean precision over thresholds and recalls; NaN where there is no object."""
    objects = (counts * group.objects).sum(dim=1).double()
    nothing = torch.where(objects > 0, 0.0, torch.nan).double()
    # Recall rises, and precision peaks, where an object is found at one threshold at least.
    places = group.right.any(dim=0).nonzero().flatten()
    if not len(places):
        return nothing
    drawn = counts[:, None, group.image]  # (B, 1, D)
    counted = group.counted
    if (counted == counted[:1]).all():
        counted = counted[:1]  # one sum for all thresholds
    detections = (drawn * counted).cumsum(dim=-1)[..., places]
    right = (drawn[..., places] * group.right[:, places]).cumsum(dim=-1).double()  # (B, T, P)
    precision = right / (detections.double() + EPSILON)
    # At each recall the best precision at this or a higher one.
    precision = precision.flip(-1).cummax(dim=-1).values.flip(-1)
    recall = right / objects.clamp(min=1)[:, None, None]
    wanted = recalls.expand(*recall.shape[:2], -1).contiguous()
    index = torch.searchsorted(recall, wanted)
    precision = torch.nn.functional.pad(precision, (0, 1))  # 0 where a recall is not reached
    return precision.gather(-1, index).mean(dim=(1, 2)) + nothing

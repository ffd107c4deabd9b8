"""Comparison of an export's detections with its source's."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor

from .errors import ExportError

# How far a detection may be from the source's, on the image as it is on disk.
BOX_TOLERANCE = 0.1  # px
SCORE_TOLERANCE = 1e-3
LEAST_MASK_IOU = 0.99
# Boxes of one class that overlap by so much are taken for the same object.
SAME = 0.5


@dataclass
class Agreement:
    """
    The greatest differences between an export and its source over the images compared.

    Attributes:
        threshold: the score that detections must exceed.
        most: detections that an image may have.
        images, detections: how many were compared.
        box: of a coordinate, in px of the image as it is on disk.
        score: of a score.
        mask_iou: the least overlap of two masks; None without masks.
        keypoint: of a keypoint's coordinate in px; None without keypoints.
    """

    threshold: float
    most: int
    images: int = 0
    detections: int = 0
    box: float = 0.0
    score: float = 0.0
    mask_iou: float | None = None
    keypoint: float | None = None

    def __str__(self) -> str:
        text = (
            f"{self.detections} detections on {self.images} images: boxes within {self.box:.2g} "
            f"px, scores within {self.score:.2g}"
        )
        if self.mask_iou is not None:
            text += f", masks of IoU {self.mask_iou:.4f} and above"
        if self.keypoint is not None:
            text += f", keypoints within {self.keypoint:.2g} px"
        return text

    def compare(
        self, name: str, expected: Instances, exported: Instances, size: tuple[int, int]
    ) -> None:
        """
        Take in one image.

        Args:
            name: what an error calls it.
            expected, exported: by the source and by the export, at the network's scale.
            size: height and width of the image on disk, at which they are compared.

        Raises:
            ExportError: with the first difference that is not allowed. Detections whose score is
                within 1e-3 of the lowest that counts may come or go.
        """
        # Where there are as many as there may be, the last ones are left out by their score.
        edge = max(
            [self.threshold]
            + [float(x.scores.min()) for x in (expected, exported) if len(x) >= self.most]
        )
        # It scales boxes in place.
        expected, exported = (
            detector_postprocess(deepcopy(x), *size) for x in (expected, exported)
        )
        pairs = _pairs(expected, exported)
        for what, instances, paired in (
            ("the export does not find", expected, [i for i, _ in pairs]),
            ("only the export finds", exported, [j for _, j in pairs]),
        ):
            for index in sorted(set(range(len(instances))) - set(paired)):
                if instances.scores[index] > edge + SCORE_TOLERANCE:
                    raise ExportError(f"{name}: {what} {_described(instances, index)}.")
        self.images += 1
        self.detections += len(pairs)
        for i, j in pairs:
            self._take_in(f"{name}: {_described(expected, i)}", expected[i], exported[j])

    def _take_in(self, what: str, expected: Instances, exported: Instances) -> None:
        box = _greatest(expected.pred_boxes.tensor - exported.pred_boxes.tensor)
        _check(box <= BOX_TOLERANCE, what, f"its box is {box:.3g} px off", f"{BOX_TOLERANCE} px")
        score = _greatest(expected.scores - exported.scores)
        _check(score <= SCORE_TOLERANCE, what, f"its score is {score:.3g} off", SCORE_TOLERANCE)
        self.box, self.score = max(self.box, box), max(self.score, score)
        if expected.has("pred_masks"):
            both = (expected.pred_masks & exported.pred_masks).sum()
            either = (expected.pred_masks | exported.pred_masks).sum()
            iou = float(both / either) if either else 1.0
            _check(iou > LEAST_MASK_IOU, what, f"its mask has an IoU of {iou:.4f}", LEAST_MASK_IOU)
            self.mask_iou = min(iou, 1.0 if self.mask_iou is None else self.mask_iou)
        if expected.has("pred_keypoints"):
            off = _greatest(expected.pred_keypoints[..., :2] - exported.pred_keypoints[..., :2])
            _check(off <= BOX_TOLERANCE, what, f"a keypoint is {off:.3g} px off", BOX_TOLERANCE)
            self.keypoint = max(off, self.keypoint or 0.0)


def _pairs(expected: Instances, exported: Instances) -> list[tuple[int, int]]:
    """Pairs of ``expected`` and ``exported``: of one class, and of the greatest overlap."""
    overlap = pairwise_iou(expected.pred_boxes, exported.pred_boxes)
    overlap[expected.pred_classes[:, None] != exported.pred_classes] = 0
    pairs = []
    for i in range(len(expected) if len(exported) else 0):
        j = int(overlap[i].argmax())
        if overlap[i, j] >= SAME:
            pairs.append((i, j))
            overlap[:, j] = 0
    return pairs


def _greatest(difference: Tensor) -> float:
    return float(difference.abs().max()) if difference.numel() else 0.0


def _check(holds: bool, what: str, value: str, allowed: object) -> None:
    if not holds:
        raise ExportError(f"{what}: {value}; allowed is {allowed}.")


def _described(instances: Instances, index: int) -> str:
    box = ", ".join(f"{x:.1f}" for x in instances.pred_boxes.tensor[index].tolist())
    return (
        f"the detection of class {int(instances.pred_classes[index])}, score "
        f"{float(instances.scores[index]):.4f}, box ({box})"
    )

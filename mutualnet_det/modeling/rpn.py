"""
The RPN in mutual training: what it predicts on its anchors, the proposals it makes, and the losses.

Shapes: N images, R anchors of an image on all levels, R' on one of them. Sizes are (height, width)
in pixels, before padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..config import ConfigError
from .anchors import anchors_of
from .correspondence import corresponding_anchors
from .distillation import score_distillation
from .features import Features, Losses, Sizes


@dataclass
class RpnPredictions:
    """
    Predictions of the RPN in one pass.

    Attributes:
        grid_sizes: (height, width) in cells of each level, as padded.
        anchors, objectness, deltas: per level, (R', 4), logits (N, R') and (N, R', 4).
    """

    grid_sizes: Sizes
    anchors: list[Boxes]
    objectness: list[Tensor]
    deltas: list[Tensor]


@dataclass
class RpnTeacher:
    """
    Objectness that the full network's RPN hands out.

    Attributes:
        image_sizes: of its images.
        grid_sizes: as in :class:`RpnPredictions`.
        objectness: logits (N, R), detached.
    """

    image_sizes: Sizes
    grid_sizes: Sizes
    objectness: Tensor

    @classmethod
    def of(cls, predictions: RpnPredictions, image_sizes: Sizes) -> RpnTeacher:
        objectness = torch.cat(predictions.objectness, dim=1).detach()
        return cls(image_sizes, predictions.grid_sizes, objectness)


def predict(rpn: RPN, features: Features) -> RpnPredictions:
    """Predict with the RPN of the width in force on a pyramid's levels, by name."""
    levels = [features[name] for name in rpn.in_features]
    objectness, deltas = rpn.rpn_head(levels)
    return RpnPredictions(
        [tuple(level.shape[-2:]) for level in levels],
        anchors_of(rpn.anchor_generator, levels),
        # Per level: (N, A, H, W) to (N, H * W * A), and (N, A * 4, H, W) to (N, H * W * A, 4).
        [x.permute(0, 2, 3, 1).flatten(1) for x in objectness],
        [
            x.unflatten(1, (-1, rpn.anchor_generator.box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            for x in deltas
        ],
    )


def ground_truth_losses(
    rpn: RPN, predictions: RpnPredictions, instances: list[Instances]
) -> Losses:
    """Detectron2's losses of an RPN, by its names."""
    anchors = predictions.anchors
    labels, boxes = rpn.label_and_sample_anchors(anchors, instances)
    return rpn.losses(anchors, predictions.objectness, labels, predictions.deltas, boxes)


def propose(rpn: RPN, predictions: RpnPredictions, image_sizes: Sizes) -> list[Instances]:
    """Detectron2's proposals of an RPN, per image."""
    return rpn.predict_proposals(
        predictions.anchors, predictions.objectness, predictions.deltas, image_sizes
    )


def distillation_losses(
    rpn: RPN,
    predictions: RpnPredictions,
    image_sizes: Sizes,
    teacher: RpnTeacher,
    weight: float,
) -> Losses:
    """
    The loss of a sub-network's RPN against the full network's: ``loss_distill_objectness``.

    The ground truth tells a few sampled anchors whether there is an object; the teacher tells each
    anchor that has a counterpart how sure it is of one. (An RPN's teacher is from Chen et al.,
    NeurIPS 2017, "Learning Efficient Object Detection Models with Knowledge Distillation".) The sum
    over all these anchors is divided by the sum of the teacher's scores for them, their number of
    positives, so that the loss does not grow with the image.

    Args:
        image_sizes: of the student's images.
        weight: of the loss.
    """
    logits = torch.cat(predictions.objectness, dim=1)
    loss = positives = 0
    for student, taught, size, full_size in zip(
        logits, teacher.objectness, image_sizes, teacher.image_sizes, strict=True
    ):
        index, exists = corresponding_anchors(
            rpn.anchor_generator, size, predictions.grid_sizes, full_size, teacher.grid_sizes
        )
        taught = taught[index[exists]]
        loss = loss + score_distillation(student[exists], taught)
        positives = positives + taught.float().sigmoid().sum()
    return {"loss_distill_objectness": weight * loss / positives.clamp(min=1)}


def check_anchors(rpn: RPN, weight: float) -> None:
    """ConfigError for a weight above 0 of what anchors teach that nobody can pair."""
    generator = rpn.anchor_generator
    if weight > 0 and not isinstance(generator, DefaultAnchorGenerator):
        raise ConfigError(
            f"MUTUALNET.LOSS_WEIGHTS.OBJECTNESS is {weight:g}; expected 0 where "
            f"MODEL.ANCHOR_GENERATOR.NAME builds a {type(generator).__name__}: it is the anchors "
            "of a DefaultAnchorGenerator that correspond between resolutions."
        )

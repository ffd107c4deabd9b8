"""
The ROI heads in mutual training: the proposals they learn on, what they predict, and the losses.

The box head is a list of stages. There is one, unless it is a cascade (arXiv 1712.00726): there,
each stage refines the boxes of the one before, and they are matched with the ground truth anew.
Masks and keypoints belong to the first stage's proposals, as in Detectron2.

Shapes: R proposals of a stage over the batch, F of the first stage's foreground, V of those with a
visible keypoint in them, K classes, P keypoints, M the side of a mask (28), S that of a heatmap
(56). Sizes are (height, width) in pixels, before padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from detectron2.modeling import StandardROIHeads
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.keypoint_head import BaseKeypointRCNNHead
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import Instances
from torch import Tensor

from ..compat import cascade_proposals, cascade_stage
from ..config import ROI_TERMS, terms_present
from ..data.views import scale_boxes, scale_ratio
from . import distillation
from .features import Features, Losses, Sizes

Stage = list[Instances]  # the proposals of a stage of the box head, per image


# Values ------------------------------------------------------------------------------------------


@dataclass
class BoxPredictions:
    """
    Predictions of a stage of the box head on its proposals.

    Attributes:
        class_logits: (R, K + 1).
        box_deltas: (R, K * 4), or (R, 4) if class-agnostic.
    """

    class_logits: Tensor
    box_deltas: Tensor

    def detach(self) -> BoxPredictions:
        return BoxPredictions(self.class_logits.detach(), self.box_deltas.detach())


@dataclass
class RoiPredictions:
    """
    Predictions of the ROI heads on sampled proposals.

    Attributes:
        stages: of the box head.
        mask_logits: (F, M, M) of the ground-truth class; None without a mask head.
        keypoint_logits: (V, P, S, S); None without a keypoint head.
    """

    stages: list[BoxPredictions]
    mask_logits: Tensor | None = None
    keypoint_logits: Tensor | None = None

    def detach(self) -> RoiPredictions:
        masks, keypoints = self.mask_logits, self.keypoint_logits
        return RoiPredictions(
            [stage.detach() for stage in self.stages],
            None if masks is None else masks.detach(),
            None if keypoints is None else keypoints.detach(),
        )


@dataclass
class RoiTargets:
    """
    Sampled proposals with what they should be.

    Attributes:
        stages: of the box head, at the full network's scale, with ``proposal_boxes``,
            ``gt_classes`` and ``gt_boxes``; the first one's with the other ground truth too.
        foreground: the first stage's foreground, at the scale of the ground-truth masks and
            keypoints.
        with_keypoints: those of them that the keypoint head learns from; none without one.
        masks: (F, M, M), 0 and 1; made when first needed.
        keypoints: positions and which of them are valid, (V, P) each; made when first needed.
    """

    stages: list[Stage]
    foreground: list[Instances]
    with_keypoints: list[Instances]
    masks: Tensor | None = None
    keypoints: tuple[Tensor, Tensor] | None = None

    @classmethod
    def at(cls, heads: StandardROIHeads, stages: list[Stage], source_sizes: Sizes) -> RoiTargets:
        """
        Args:
            stages: at the full network's scale.
            source_sizes: the images' sizes at the scale of their masks and keypoints.
        """
        foreground, _ = select_foreground_proposals(stages[0], heads.num_classes)
        foreground = rescaled(foreground, source_sizes)
        with_keypoints = []
        if heads.keypoint_on:
            with_keypoints = [distillation.with_visible_keypoints(x) for x in foreground]
        return cls(stages, foreground, with_keypoints)

    def masks_like(self, logits: Tensor) -> Tensor:
        """Ground-truth masks for ``logits`` (F, M, M)."""
        if self.masks is None:
            self.masks = distillation.mask_targets(self.foreground, logits.shape[-1])
        return self.masks

    def keypoints_like(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Ground-truth positions and which are valid for ``logits`` (V, P, S, S)."""
        if self.keypoints is None:
            self.keypoints = distillation.keypoint_targets(
                self.with_keypoints, logits.shape[1], logits.shape[-1]
            )
        return self.keypoints


def rescaled(proposals: list[Instances], sizes: Sizes) -> list[Instances]:
    """The same proposals at the scale of other image sizes; all but their boxes is shared."""
    return [_rescaled(x, size) for x, size in zip(proposals, sizes, strict=True)]


def _rescaled(proposals: Instances, size: tuple[int, int]) -> Instances:
    # Rounding and the cap of the long side make the ratios of x and y differ.
    ratio = scale_ratio(proposals.image_size, size)
    scaled = Instances(size, **proposals.get_fields())
    scaled.proposal_boxes = scale_boxes(proposals.proposal_boxes, ratio)
    if proposals.has("gt_boxes"):
        scaled.gt_boxes = scale_boxes(proposals.gt_boxes, ratio)
    return scaled


# Predictions -------------------------------------------------------------------------------------


def run_stages(
    heads: StandardROIHeads, features: Features, proposals: Stage, instances: list[Instances]
) -> tuple[list[Stage], list[BoxPredictions]]:
    """
    The box head's own course in training: each stage on the boxes that the one before refined.

    Args:
        proposals: sampled and labelled, for the first stage.
        instances: the ground truth, at the scale of the features, as are the proposals.

    Returns:
        the proposals of every stage, labelled, and the predictions on them.
    """
    stages, predictions = [proposals], [_predict_stage(heads, features, proposals, 0)]
    for number in range(1, num_stages(heads)):
        last = predictions[-1]
        boxes = heads.box_predictor[number - 1].predict_boxes(
            (last.class_logits, last.box_deltas), stages[-1]
        )
        sizes = [x.image_size for x in proposals]
        stages.append(cascade_proposals(heads, boxes, sizes, number, instances))
        predictions.append(_predict_stage(heads, features, stages[-1], number))
    return stages, predictions


def predict(
    heads: StandardROIHeads, features: Features, targets: RoiTargets, sizes: Sizes
) -> RoiPredictions:
    """
    Predict on the proposals of ``targets``, those of each stage included.

    Args:
        sizes: of the images, at the scale of the features.
    """
    stages = [
        _predict_stage(heads, features, rescaled(proposals, sizes), number)
        for number, proposals in enumerate(targets.stages)
    ]
    return predict_instances(heads, features, targets, sizes, stages)


def predict_instances(
    heads: StandardROIHeads,
    features: Features,
    targets: RoiTargets,
    sizes: Sizes,
    stages: list[BoxPredictions],
) -> RoiPredictions:
    """The predictions of the box head's ``stages`` with those of masks and keypoints added."""
    predictions = RoiPredictions(stages)
    if heads.mask_on:
        boxes = [x.proposal_boxes for x in rescaled(targets.foreground, sizes)]
        pooled = heads.mask_pooler([features[f] for f in heads.mask_in_features], boxes)
        classes = torch.cat([x.gt_classes for x in targets.foreground])
        logits = heads.mask_head.layers(pooled)
        predictions.mask_logits = distillation.masks_of_classes(logits, classes)
    if heads.keypoint_on:
        boxes = [x.proposal_boxes for x in rescaled(targets.with_keypoints, sizes)]
        pooled = heads.keypoint_pooler([features[f] for f in heads.keypoint_in_features], boxes)
        predictions.keypoint_logits = heads.keypoint_head.layers(pooled)
    return predictions


def num_stages(heads: StandardROIHeads) -> int:
    """The number of stages of the box head: 1 unless it is a cascade."""
    return heads.num_cascade_stages if _is_cascade(heads) else 1


def _is_cascade(heads: StandardROIHeads) -> bool:
    return isinstance(heads, CascadeROIHeads)


def _predict_stage(
    heads: StandardROIHeads, features: Features, proposals: Stage, number: int
) -> BoxPredictions:
    levels = [features[f] for f in heads.box_in_features]
    if _is_cascade(heads):
        return BoxPredictions(*cascade_stage(heads, levels, proposals, number))
    pooled = heads.box_pooler(levels, [x.proposal_boxes for x in proposals])
    return BoxPredictions(*heads.box_predictor(heads.box_head(pooled)))


# Losses ------------------------------------------------------------------------------------------


def ground_truth_losses(
    heads: StandardROIHeads, predictions: RoiPredictions, targets: RoiTargets
) -> Losses:
    """Detectron2's losses of the ROI heads, by its names. No target depends on the scale."""
    losses = {}
    for number, (stage, proposals) in enumerate(
        zip(predictions.stages, targets.stages, strict=True)
    ):
        # Detectron2 logs accuracies per stage, under a scope that would end the trainer's own.
        predictor = heads.box_predictor if num_stages(heads) == 1 else heads.box_predictor[number]
        stage_losses = predictor.losses((stage.class_logits, stage.box_deltas), proposals)
        losses |= {_of_stage(heads, name, number): loss for name, loss in stage_losses.items()}
    if heads.mask_on:
        logits = predictions.mask_logits
        loss = distillation.mask_loss(logits, targets.masks_like(logits))
        losses["loss_mask"] = heads.mask_head.loss_weight * loss
    if heads.keypoint_on:
        logits, normalizer = predictions.keypoint_logits, heads.keypoint_head.loss_normalizer
        normalizer = None if normalizer == "visible" else normalizer * len(targets.foreground)
        loss = distillation.keypoint_loss(logits, *targets.keypoints_like(logits), normalizer)
        losses["loss_keypoint"] = heads.keypoint_head.loss_weight * loss
    return losses


def distillation_losses(
    heads: StandardROIHeads,
    student: RoiPredictions,
    teacher: RoiPredictions,
    targets: RoiTargets,
    weights: Mapping[str, float],
    temperature: float,
) -> Losses:
    """
    Losses of a student against the teacher's predictions on the same proposals.

    Args:
        weights: of the losses, by "CLASS", "BOX", "MASK" and "KEYPOINT"; 0 leaves one out.
        temperature: of the class distributions.
    """
    losses = {}
    terms = taught_terms(heads, weights)
    for number, (stage, taught, proposals) in enumerate(
        zip(student.stages, teacher.stages, targets.stages, strict=True)
    ):
        if "CLASS" in terms:
            loss = distillation.class_distillation(
                stage.class_logits, taught.class_logits, temperature
            )
            losses[_of_stage(heads, "loss_distill_class", number)] = weights["CLASS"] * loss
        if "BOX" in terms:
            classes = torch.cat([x.gt_classes for x in proposals])
            loss = distillation.box_distillation(
                stage.box_deltas, taught.box_deltas, classes, heads.num_classes
            )
            losses[_of_stage(heads, "loss_distill_box", number)] = weights["BOX"] * loss
    if "MASK" in terms:
        loss = distillation.mask_distillation(student.mask_logits, teacher.mask_logits)
        losses["loss_distill_mask"] = weights["MASK"] * loss
    if "KEYPOINT" in terms:
        logits = student.keypoint_logits
        _, valid = targets.keypoints_like(logits)
        loss = distillation.keypoint_distillation(logits, teacher.keypoint_logits, valid)
        losses["loss_distill_keypoint"] = weights["KEYPOINT"] * loss
    return losses


def taught_terms(heads: StandardROIHeads, weights: Mapping[str, float]) -> list[str]:
    """The losses that :func:`distillation_losses` has, by their key in ``weights``."""
    present = terms_present(ROI_TERMS, mask_on=heads.mask_on, keypoint_on=heads.keypoint_on)
    return [term for term in present if weights.get(term, 0) > 0]


def _of_stage(heads: StandardROIHeads, name: str, number: int) -> str:
    """A loss's name as Detectron2 has it: with the stage's number in a cascade."""
    return f"{name}_stage{number}" if _is_cascade(heads) else name


# What can be taught ------------------------------------------------------------------------------


def unteachable_part(heads: object) -> str | None:
    """The config key of a part whose losses this module does not know; None if there is none."""
    if not isinstance(heads, StandardROIHeads):
        return f"MODEL.ROI_HEADS.NAME builds a {type(heads).__name__}"
    if heads.mask_on and not isinstance(heads.mask_head, BaseMaskRCNNHead):
        return f"MODEL.ROI_MASK_HEAD.NAME builds a {type(heads.mask_head).__name__}"
    if heads.keypoint_on and not isinstance(heads.keypoint_head, BaseKeypointRCNNHead):
        return f"MODEL.ROI_KEYPOINT_HEAD.NAME builds a {type(heads.keypoint_head).__name__}"
    if heads.train_on_pred_boxes:
        return "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES is True"
    predictors = heads.box_predictor if num_stages(heads) > 1 else [heads.box_predictor]
    if any(getattr(x, "use_sigmoid_ce", False) for x in predictors):  # no distribution to teach
        return "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE is True"
    return None

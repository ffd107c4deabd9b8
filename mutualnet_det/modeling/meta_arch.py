"""
MutualRCNN: Detectron2's Generalized R-CNN with two more training passes.

Inference and plain training stay Detectron2's. :meth:`MutualRCNN.teach` runs the full network and
hands out what it predicts on its sampled proposals; :meth:`MutualRCNN.study` runs a sub-network on
the same objects at another scale and returns its losses.

Shapes: R proposals of a batch, F of them foreground, K classes, M the side of a mask (28).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, StandardROIHeads
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ..data.views import scale_boxes, scale_ratio
from ..slimmable import Statistics, at_width, width_of
from . import distillation
from .layers import check_slimmable

Losses = dict[str, Tensor]
Features = dict[str, Tensor]


@dataclass
class RoiPredictions:
    """
    What the ROI heads predict on sampled proposals.

    Attributes:
        class_logits: (R, K + 1).
        box_deltas: (R, K * 4), or (R, 4) if class-agnostic.
        mask_logits: (F, M, M) of the ground-truth class; None without a mask head.
    """

    class_logits: Tensor
    box_deltas: Tensor
    mask_logits: Tensor | None = None

    def detach(self) -> RoiPredictions:
        masks = None if self.mask_logits is None else self.mask_logits.detach()
        return RoiPredictions(self.class_logits.detach(), self.box_deltas.detach(), masks)


@dataclass
class RoiTargets:
    """
    Sampled proposals with what they should be, at the full network's scale.

    Attributes:
        proposals: per image, with ``proposal_boxes``, ``gt_classes``, ``gt_boxes``, ``gt_masks``.
        foreground: the foreground ones of each, at the scale of the ground-truth masks.
        masks: (F, M, M), 0 and 1; made when first needed.
    """

    proposals: list[Instances]
    foreground: list[Instances]
    masks: Tensor | None = None

    @property
    def classes(self) -> Tensor:
        """Ground-truth classes (R,)."""
        return torch.cat([x.gt_classes for x in self.proposals])


@dataclass
class Teacher:
    """
    The full network's detached output in one iteration.

    Attributes:
        image_sizes: (height, width) per image, in pixels, before padding.
        source_sizes: those of the images that the batch was resized from: its masks' scale.
        targets, predictions: on the proposals the full network sampled.
        features: its pyramid, kept only if students bring proposals of their own.
        statistics: what its norms normalised by, if not by their batch.
    """

    image_sizes: list[tuple[int, int]]
    source_sizes: list[tuple[int, int]]
    targets: RoiTargets
    predictions: RoiPredictions
    features: Features | None = None
    statistics: Statistics | None = None


@META_ARCH_REGISTRY.register()
class MutualRCNN(GeneralizedRCNN):
    """
    Generalized R-CNN that teaches its sub-networks.

    Args:
        proposals: "teacher": students learn on the full network's proposals; "own": on theirs.
        temperature: of the distilled class distributions.
        loss_weights: of a student's losses, by "RPN", "GROUND_TRUTH", "CLASS", "BOX" and "MASK".
        others: as for :class:`GeneralizedRCNN`; the ROI heads are Detectron2's standard ones or
            slimmable.
    """

    @configurable
    def __init__(
        self,
        *,
        proposals: str = "teacher",
        temperature: float = 1.0,
        loss_weights: dict[str, float] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.student_proposals = proposals
        self.temperature = temperature
        self.loss_weights = dict(loss_weights or dict.fromkeys(("RPN", "GROUND_TRUTH"), 1.0))
        width_of(self)  # joins the handles of the parts

    @classmethod
    def from_config(cls, cfg):
        args = super().from_config(cfg)
        _check_teachable(args["proposal_generator"], args["roi_heads"])
        if cfg.MUTUALNET.SCOPE == "heads":
            check_slimmable(args["proposal_generator"].rpn_head, "MODEL.RPN.HEAD_NAME")
            check_slimmable(args["roi_heads"].box_head, "MODEL.ROI_BOX_HEAD.NAME")
            check_slimmable(args["roi_heads"].box_predictor, "MODEL.ROI_HEADS.NAME")
            if args["roi_heads"].mask_on:
                check_slimmable(args["roi_heads"].mask_head, "MODEL.ROI_MASK_HEAD.NAME")
        args["proposals"] = cfg.MUTUALNET.PROPOSALS
        args["temperature"] = cfg.MUTUALNET.TEMPERATURE
        args["loss_weights"] = dict(cfg.MUTUALNET.LOSS_WEIGHTS)
        return args

    def teach(self, batched_inputs: list[dict]) -> tuple[Losses, Teacher]:
        """
        One training pass of the full network, with Detectron2's losses.

        Args:
            batched_inputs: Detectron2's training inputs, or a resolution view of them: see
                :func:`mutualnet_det.data.views.view_at`.

        Returns:
            the losses, by Detectron2's names, and what the sub-networks learn from.
        """
        images, instances = self._inputs(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, instances)
        source_sizes = [
            x.get("source_size", size)
            for x, size in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        sampled = self.roi_heads.label_and_sample_proposals(proposals, instances)
        targets = self._targets(sampled, source_sizes)
        predictions = self._predict(features, targets.proposals, targets)
        losses = {**losses, **self._roi_losses(predictions, targets)}
        keep = self.student_proposals == "own" and self._distils
        return losses, Teacher(
            images.image_sizes,
            source_sizes,
            targets,
            predictions.detach(),
            {k: v.detach() for k, v in features.items()} if keep else None,
            width_of(self).shared.statistics,
        )

    def study(self, batched_inputs: list[dict], teacher: Teacher) -> Losses:
        """
        One training pass of the sub-network whose width is in force.

        Args:
            batched_inputs: the teacher's batch at this pass's resolution: see
                :func:`mutualnet_det.data.views.view_at`.
            teacher: from :meth:`teach` on the same batch.

        Returns:
            the weighted losses: Detectron2's names for those of the ground truth,
            ``loss_distill_class``, ``loss_distill_box`` and ``loss_distill_mask`` for the
            teacher's. A loss of weight 0 is neither computed nor returned.
        """
        weights = self.loss_weights
        images, instances = self._inputs(batched_inputs)
        features = self.backbone(images.tensor)
        losses: Losses = {}
        own = self.student_proposals == "own"
        if own:
            proposals, rpn_losses = self.proposal_generator(images, features, instances)
        elif weights["RPN"] > 0:
            rpn_losses = self._rpn_losses(features, instances)
        if weights["RPN"] > 0:
            losses |= {name: weights["RPN"] * loss for name, loss in rpn_losses.items()}

        # Image sizes, hence boxes, differ from the teacher's by a ratio of their own in x and in y.
        ratios = [
            scale_ratio(full, view)
            for full, view in zip(teacher.image_sizes, images.image_sizes, strict=True)
        ]
        if own:
            sampled = self.roi_heads.label_and_sample_proposals(proposals, instances)
            back = [(1 / x, 1 / y) for x, y in ratios]
            at_full = zip(sampled, back, teacher.image_sizes, strict=True)
            targets = self._targets([_rescaled(*x) for x in at_full], teacher.source_sizes)
            taught = self._teacher_predictions(teacher, targets) if self._distils else None
        else:
            targets, taught = teacher.targets, teacher.predictions
            sampled = [
                _rescaled(*each)
                for each in zip(targets.proposals, ratios, images.image_sizes, strict=True)
            ]
        predictions = self._predict(features, sampled, targets)
        if weights["GROUND_TRUTH"] > 0:
            roi_losses = self._roi_losses(predictions, targets)
            losses |= {name: weights["GROUND_TRUTH"] * loss for name, loss in roi_losses.items()}
        if taught is not None:
            losses |= self._distillation_losses(predictions, taught, targets)
        return losses

    @property
    def _distils(self) -> bool:
        return any(self.loss_weights.get(name, 0) > 0 for name in ("CLASS", "BOX", "MASK"))

    def _inputs(self, batched_inputs: list[dict]) -> tuple[ImageList, list[Instances]]:
        images = self.preprocess_image(batched_inputs)
        return images, [x["instances"].to(self.device) for x in batched_inputs]

    def _rpn_losses(self, features: Features, instances: list[Instances]) -> Losses:
        """The RPN's losses alone: with the teacher's proposals nobody needs the student's."""
        rpn = self.proposal_generator
        levels = [features[f] for f in rpn.in_features]
        anchors = rpn.anchor_generator(levels)
        objectness, deltas = rpn.rpn_head(levels)
        # Per level: (N, A, H, W) to (N, H * W * A), and (N, A * 4, H, W) to (N, H * W * A, 4).
        objectness = [x.permute(0, 2, 3, 1).flatten(1) for x in objectness]
        deltas = [
            x.unflatten(1, (-1, rpn.anchor_generator.box_dim)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            for x in deltas
        ]
        labels, boxes = rpn.label_and_sample_anchors(anchors, instances)
        return rpn.losses(anchors, objectness, labels, deltas, boxes)

    def _targets(
        self, proposals: list[Instances], source_sizes: list[tuple[int, int]]
    ) -> RoiTargets:
        foreground, _ = select_foreground_proposals(proposals, self.roi_heads.num_classes)
        at_source = [
            _rescaled(x, scale_ratio(x.image_size, size), size)
            for x, size in zip(foreground, source_sizes, strict=True)
        ]
        return RoiTargets(proposals, at_source)

    def _predict(
        self, features: Features, proposals: list[Instances], targets: RoiTargets
    ) -> RoiPredictions:
        """What the heads predict on ``proposals``, which are ``targets`` at the features' scale."""
        heads = self.roi_heads
        boxes = [x.proposal_boxes for x in proposals]
        pooled = heads.box_pooler([features[f] for f in heads.box_in_features], boxes)
        class_logits, box_deltas = heads.box_predictor(heads.box_head(pooled))
        if not heads.mask_on:
            return RoiPredictions(class_logits, box_deltas)
        foreground, _ = select_foreground_proposals(proposals, heads.num_classes)
        boxes = [x.proposal_boxes for x in foreground]
        pooled = heads.mask_pooler([features[f] for f in heads.mask_in_features], boxes)
        classes = torch.cat([x.gt_classes for x in targets.foreground])
        masks = distillation.masks_of_classes(heads.mask_head.layers(pooled), classes)
        return RoiPredictions(class_logits, box_deltas, masks)

    @torch.no_grad()
    def _teacher_predictions(self, teacher: Teacher, targets: RoiTargets) -> RoiPredictions:
        """What the full network predicts on a student's proposals."""
        full = width_of(self).maximum
        with at_width(self, full, track=False, statistics=teacher.statistics):
            return self._predict(teacher.features, targets.proposals, targets)

    def _roi_losses(self, predictions: RoiPredictions, targets: RoiTargets) -> Losses:
        """Detectron2's losses of the ROI heads. Box deltas do not depend on the scale."""
        losses = self.roi_heads.box_predictor.losses(
            (predictions.class_logits, predictions.box_deltas), targets.proposals
        )
        if predictions.mask_logits is not None:
            if targets.masks is None:
                side = predictions.mask_logits.shape[-1]
                targets.masks = distillation.mask_targets(targets.foreground, side)
            weight = self.roi_heads.mask_head.loss_weight
            loss = distillation.mask_loss(predictions.mask_logits, targets.masks)
            losses["loss_mask"] = weight * loss
        return losses

    def _distillation_losses(
        self, student: RoiPredictions, teacher: RoiPredictions, targets: RoiTargets
    ) -> Losses:
        weights = self.loss_weights
        losses = {}
        if weights.get("CLASS", 0) > 0:
            losses["loss_distill_class"] = weights["CLASS"] * distillation.class_distillation(
                student.class_logits, teacher.class_logits, self.temperature
            )
        if weights.get("BOX", 0) > 0:
            losses["loss_distill_box"] = weights["BOX"] * distillation.box_distillation(
                student.box_deltas,
                teacher.box_deltas,
                targets.classes,
                self.roi_heads.num_classes,
            )
        if weights.get("MASK", 0) > 0 and student.mask_logits is not None:
            losses["loss_distill_mask"] = weights["MASK"] * distillation.mask_distillation(
                student.mask_logits, teacher.mask_logits
            )
        return losses


def _rescaled(
    proposals: Instances, ratio: tuple[float, float], image_size: tuple[int, int]
) -> Instances:
    """The same proposals at another scale; all but their boxes is shared."""
    scaled = Instances(image_size, **proposals.get_fields())
    scaled.proposal_boxes = scale_boxes(proposals.proposal_boxes, ratio)
    if proposals.has("gt_boxes"):
        scaled.gt_boxes = scale_boxes(proposals.gt_boxes, ratio)
    return scaled


def _check_teachable(proposal_generator: nn.Module, roi_heads: nn.Module) -> None:
    """ValueError for parts whose losses the training passes would leave out."""
    if not isinstance(proposal_generator, RPN):
        found = f"MODEL.PROPOSAL_GENERATOR.NAME builds a {type(proposal_generator).__name__}"
    elif not isinstance(roi_heads, StandardROIHeads) or isinstance(roi_heads, CascadeROIHeads):
        found = f"MODEL.ROI_HEADS.NAME builds a {type(roi_heads).__name__}"
    elif roi_heads.mask_on and not isinstance(roi_heads.mask_head, BaseMaskRCNNHead):
        found = f"MODEL.ROI_MASK_HEAD.NAME builds a {type(roi_heads.mask_head).__name__}"
    elif roi_heads.keypoint_on:
        found = "MODEL.KEYPOINT_ON is True"
    elif roi_heads.train_on_pred_boxes:
        found = "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES is True"
    else:
        return
    raise ValueError(
        f"{found}; MutualRCNN teaches an RPN with standard box and mask heads. Set "
        "MODEL.META_ARCHITECTURE to GeneralizedRCNN to train the full network alone, as Detectron2 "
        "does."
    )

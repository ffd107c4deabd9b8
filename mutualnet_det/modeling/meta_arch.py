"""
MutualRCNN: Detectron2's Generalized R-CNN with two more training passes.

Inference and plain training stay Detectron2's. :meth:`MutualRCNN.teach` runs the full network and
hands out what it predicts on its sampled proposals; :meth:`MutualRCNN.study` runs a sub-network on
the same objects at another scale and returns its losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.rrpn import RRPN
from detectron2.structures import ImageList, Instances
from torch import nn

from ..slimmable import Statistics, at_width, width_of
from . import roi, rpn
from .features import Features, Losses, Sizes, detached, feature_losses
from .layers import check_slimmable
from .roi import RoiPredictions, RoiTargets
from .rpn import RpnTeacher
from .teaching import Teaching


@dataclass
class Seen:
    """
    A training batch and what the network of the width in force makes of it.

    Attributes:
        images: padded to one size; ``image_sizes`` are those before.
        instances: the ground truth; boxes at the scale of ``images``, masks and keypoints at that
            of ``source_sizes``.
        source_sizes: those of the images that the batch was resized from.
        features: the pyramid's levels by name.
    """

    images: ImageList
    instances: list[Instances]
    source_sizes: Sizes
    features: Features

    @property
    def sizes(self) -> Sizes:
        return self.images.image_sizes


@dataclass
class Teacher:
    """
    The full network's detached output in one iteration.

    Attributes:
        image_sizes: (height, width) per image, in pixels, before padding.
        targets, predictions: on the proposals the full network sampled.
        rpn: what its RPN predicts, kept only if students learn from it.
        features: its pyramid, kept only if students learn from it or bring proposals of their own.
        statistics: what its norms normalised by, if not by their batch.
    """

    image_sizes: Sizes
    targets: RoiTargets
    predictions: RoiPredictions
    rpn: RpnTeacher | None = None
    features: Features | None = None
    statistics: Statistics | None = None


@META_ARCH_REGISTRY.register()
class MutualRCNN(Teaching, GeneralizedRCNN):
    """
    Generalized R-CNN that teaches its sub-networks.

    Args:
        proposals: "teacher": students learn on the full network's proposals; "own": on theirs.
        others: as for :class:`Teaching` and :class:`GeneralizedRCNN`; the ROI heads are
            Detectron2's standard or cascade ones or slimmable.
    """

    @configurable
    def __init__(self, *, proposals: str = "teacher", **kwargs) -> None:
        super().__init__(**kwargs)
        self.student_proposals = proposals

    @classmethod
    def from_config(cls, cfg):
        args = super().from_config(cfg)
        _check_teachable(args["proposal_generator"], args["roi_heads"])
        rpn.check_anchors(args["proposal_generator"], cfg.MUTUALNET.LOSS_WEIGHTS.OBJECTNESS)
        if cfg.MUTUALNET.SCOPE == "heads":
            check_slimmable(args["proposal_generator"].rpn_head, "MODEL.RPN.HEAD_NAME")
            check_slimmable(args["roi_heads"].box_head, "MODEL.ROI_BOX_HEAD.NAME")
            check_slimmable(args["roi_heads"].box_predictor, "MODEL.ROI_HEADS.NAME")
            if args["roi_heads"].mask_on:
                check_slimmable(args["roi_heads"].mask_head, "MODEL.ROI_MASK_HEAD.NAME")
            if args["roi_heads"].keypoint_on:
                check_slimmable(args["roi_heads"].keypoint_head, "MODEL.ROI_KEYPOINT_HEAD.NAME")
        return {**args, "proposals": cfg.MUTUALNET.PROPOSALS}

    def teach(self, batched_inputs: list[dict]) -> tuple[Losses, Teacher]:
        """
        Run a training pass of the full network, with Detectron2's losses.

        Args:
            batched_inputs: Detectron2's training inputs, or a resolution view of them: see
                :func:`mutualnet_det.data.views.view_at`.

        Returns:
            the losses, by Detectron2's names, and what the sub-networks learn from.
        """
        return self._teach(self._see(batched_inputs))

    def study(self, batched_inputs: list[dict], teacher: Teacher) -> Losses:
        """
        Run a training pass of the sub-network whose width is in force.

        Args:
            batched_inputs: the teacher's batch at this pass's resolution: see
                :func:`mutualnet_det.data.views.view_at`.
            teacher: from :meth:`teach` on the same batch.

        Returns:
            the weighted losses: Detectron2's names for those of the ground truth,
            ``loss_distill_class``, ``_box``, ``_mask``, ``_keypoint``, ``_objectness`` and
            ``_feature`` for the teacher's. A loss of weight 0 is neither computed nor returned.
        """
        return self._study(self._see(batched_inputs), teacher)

    def _see(self, batched_inputs: list[dict]) -> Seen:
        images = self.preprocess_image(batched_inputs)
        return Seen(
            images,
            [x["instances"].to(self.device) for x in batched_inputs],
            [
                x.get("source_size", size)
                for x, size in zip(batched_inputs, images.image_sizes, strict=True)
            ],
            self.backbone(images.tensor),
        )

    def _teach(self, seen: Seen) -> tuple[Losses, Teacher]:
        weights, generator = self.loss_weights, self.proposal_generator
        anchored = rpn.predict(generator, seen.features)
        losses = rpn.ground_truth_losses(generator, anchored, seen.instances)
        proposals = rpn.propose(generator, anchored, seen.sizes)
        targets, predictions = self._sample(seen, proposals, seen.sizes)
        losses |= roi.ground_truth_losses(self.roi_heads, predictions, targets)
        seen_again = self.student_proposals == "own" and self._is_taught
        keep = seen_again or weights["FEATURE"] > 0
        return losses, Teacher(
            seen.sizes,
            targets,
            predictions.detach(),
            RpnTeacher.of(anchored, seen.sizes) if weights["OBJECTNESS"] > 0 else None,
            detached(seen.features) if keep else None,
            width_of(self).shared.statistics,
        )

    def _study(self, seen: Seen, teacher: Teacher) -> Losses:
        weights, heads, generator = self.loss_weights, self.roi_heads, self.proposal_generator
        losses: Losses = {}
        own = self.student_proposals == "own"
        if own or weights["RPN"] > 0 or weights["OBJECTNESS"] > 0:
            anchored = rpn.predict(generator, seen.features)
        if weights["RPN"] > 0:
            from_truth = rpn.ground_truth_losses(generator, anchored, seen.instances)
            losses |= {name: weights["RPN"] * loss for name, loss in from_truth.items()}
        if weights["OBJECTNESS"] > 0:
            losses |= rpn.distillation_losses(
                generator, anchored, seen.sizes, teacher.rpn, weights["OBJECTNESS"]
            )

        if own:
            proposals = rpn.propose(generator, anchored, seen.sizes)
            targets, predictions = self._sample(seen, proposals, teacher.image_sizes)
            taught = self._teacher_predictions(teacher, targets) if self._is_taught else None
        else:
            targets, taught = teacher.targets, teacher.predictions
            predictions = roi.predict(heads, seen.features, targets, seen.sizes)
        if weights["GROUND_TRUTH"] > 0:
            from_truth = roi.ground_truth_losses(heads, predictions, targets)
            losses |= {name: weights["GROUND_TRUTH"] * loss for name, loss in from_truth.items()}
        if taught is not None:
            losses |= roi.distillation_losses(
                heads, predictions, taught, targets, weights, self.temperature
            )
        return losses | feature_losses(
            self.backbone, seen.features, seen.sizes, teacher.features, teacher.image_sizes, weights
        )

    @property
    def _is_taught(self) -> bool:
        return bool(roi.taught_terms(self.roi_heads, self.loss_weights))

    def _sample(
        self, seen: Seen, proposals: list[Instances], full_sizes: Sizes
    ) -> tuple[RoiTargets, RoiPredictions]:
        """Proposals that the network in force has sampled, and what it predicts on them."""
        heads = self.roi_heads
        sampled = heads.label_and_sample_proposals(proposals, seen.instances)
        stages, boxes = roi.run_stages(heads, seen.features, sampled, seen.instances)
        stages = [roi.rescaled(stage, full_sizes) for stage in stages]
        targets = RoiTargets.at(heads, stages, seen.source_sizes)
        return targets, roi.predict_instances(heads, seen.features, targets, seen.sizes, boxes)

    @torch.no_grad()
    def _teacher_predictions(self, teacher: Teacher, targets: RoiTargets) -> RoiPredictions:
        """Predict with the full network on a student's proposals."""
        full = width_of(self).maximum
        with at_width(self, full, track=False, statistics=teacher.statistics):
            return roi.predict(self.roi_heads, teacher.features, targets, teacher.image_sizes)


def _check_teachable(proposal_generator: nn.Module, roi_heads: nn.Module) -> None:
    """ValueError for parts whose losses the training passes would leave out."""
    if not isinstance(proposal_generator, RPN) or isinstance(proposal_generator, RRPN):
        unteachable = f"MODEL.PROPOSAL_GENERATOR.NAME builds a {type(proposal_generator).__name__}"
    elif proposal_generator.anchor_generator.box_dim != 4:
        unteachable = "MODEL.ANCHOR_GENERATOR.NAME builds rotated anchors"
    else:
        unteachable = roi.unteachable_part(roi_heads)
    if unteachable is not None:
        raise ValueError(
            f"{unteachable}; MutualRCNN teaches an RPN with standard or cascade box heads, mask "
            "and keypoint heads. Set MODEL.META_ARCHITECTURE to GeneralizedRCNN to train the full "
            "network alone, as Detectron2 does."
        )

"""
MutualPanopticFPN: Detectron2's Panoptic FPN (arXiv 1901.02446) with the training passes of
MutualRCNN, and the semantic head's losses beside those of the ROI heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import PanopticFPN

from .features import Losses
from .meta_arch import MutualRCNN, Teacher
from .semantic import (
    SemanticTeacher,
    check_semantic_head,
    semantic_ground_truth,
    semantic_logits,
    semantic_losses,
    semantic_study,
)


@dataclass
class PanopticTeacher:
    """The full network's detached output in one iteration: on proposals, and on pixels."""

    detection: Teacher
    semantic: SemanticTeacher


@META_ARCH_REGISTRY.register()
class MutualPanopticFPN(MutualRCNN, PanopticFPN):
    """
    Panoptic FPN that teaches its sub-networks.

    Args:
        loss_weights: as for :class:`Teaching`. "GROUND_TRUTH" weights the ROI heads' losses and the
            semantic head's.
        others: as for :class:`MutualRCNN` and :class:`PanopticFPN`; the semantic head is
            Detectron2's of Panoptic FPN or slimmable.
    """

    @classmethod
    def from_config(cls, cfg):
        args = super().from_config(cfg)
        check_semantic_head(args["sem_seg_head"], cfg.MUTUALNET.SCOPE)
        return args

    def teach(self, batched_inputs: list[dict]) -> tuple[Losses, PanopticTeacher]:
        """
        Run a training pass of the full network, with Detectron2's losses: see
        :meth:`MutualRCNN.teach`. The inputs have "sem_seg" too, at the source's scale.
        """
        seen = self._see(batched_inputs)
        losses, detection = self._teach(seen)
        logits = semantic_logits(self.sem_seg_head, seen.features)
        ground_truth = semantic_ground_truth(batched_inputs, seen.sizes)
        losses |= semantic_losses(self.sem_seg_head, logits, ground_truth)
        semantic = SemanticTeacher(seen.sizes, logits.detach())
        return losses, PanopticTeacher(detection, semantic)

    def study(self, batched_inputs: list[dict], teacher: PanopticTeacher) -> Losses:
        """
        Run a training pass of the sub-network in force: see :meth:`MutualRCNN.study`.

        Returns:
            its losses, with ``loss_sem_seg`` and ``loss_distill_sem_seg`` beside.
        """
        weights = self.loss_weights
        seen = self._see(batched_inputs)
        losses = self._study(seen, teacher.detection)
        if weights["GROUND_TRUTH"] == 0 and weights["SEGMENTATION"] == 0:
            return losses
        logits = semantic_logits(self.sem_seg_head, seen.features)
        return losses | semantic_study(
            self.sem_seg_head,
            logits,
            batched_inputs,
            seen.sizes,
            teacher.semantic,
            weights,
            self.temperature,
        )

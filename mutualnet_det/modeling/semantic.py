"""
Semantic segmentation: a slimmable head, what a sub-network learns from the teacher's pixels, and
MutualSemanticSegmentor.

Shapes: N images, K classes, h x w the grid of a padded batch at the head's stride. Sizes are
(height, width) in pixels, before padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.modeling.meta_arch import SemanticSegmentor
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.structures import ImageList
from torch import Tensor, nn

from ..slimmable import Channels, Width
from .correspondence import averaged_over_cells
from .features import Features, Losses, Sizes, detached, feature_losses
from .layers import GROUP_NORM_HINT, check_slimmable, head_arguments, slimmed
from .parts import normalised_batch
from .teaching import Teaching


@SEM_SEG_HEADS_REGISTRY.register()
class SlimmableSemSegFPNHead(SemSegFPNHead):
    """
    Detectron2's semantic head of Panoptic FPN, slimmed; all but the predictor's outputs.

    Args:
        conv_dims: channels at width 1 of the convolutions.
        norm: "" or "BN" where the head slims; Detectron2's group normalisation does not.
        in_dim: the dimension of the pyramid's levels; None leaves the head plain.
        width: the handle to share.
        others: as for :class:`SemSegFPNHead`.

    Input: levels (N, C, H / stride, W / stride) by name; :meth:`layers` gives logits (N, K, h, w).
    """

    @configurable
    def __init__(
        self,
        input_shape,
        *,
        conv_dims: int,
        norm: str | None = None,
        in_dim: Channels | None = None,
        width: Width | None = None,
        **kwargs,
    ) -> None:
        if in_dim is None:
            super().__init__(input_shape, conv_dims=conv_dims, norm=norm, **kwargs)
            return
        if norm not in (None, "", "BN"):
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.NORM is {norm!r}; under MUTUALNET.SCOPE 'heads' the head "
                f"slims, and of the norms '' and 'BN' do. {GROUP_NORM_HINT}"
            )
        hidden = Channels(conv_dims)
        super().__init__(input_shape, conv_dims=hidden.at(width.maximum), norm=norm, **kwargs)
        for layers in self.scale_heads:
            current = in_dim
            for index, layer in enumerate(layers):
                if isinstance(layer, nn.Conv2d):
                    layers[index] = slimmed(layer, current, hidden, width)
                    current = hidden
        num_classes = Channels.fixed(self.predictor.out_channels)
        self.predictor = slimmed(self.predictor, hidden, num_classes, width)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), **head_arguments(cfg)}


# Losses ------------------------------------------------------------------------------------------


def semantic_logits(head: SemSegFPNHead, features: dict[str, Tensor]) -> Tensor:
    """Predictions of the head before upsampling: logits (N, K, h, w) at its stride, 4 px."""
    return head.layers(features)


def semantic_ground_truth(batched_inputs: list[dict], sizes: Sizes) -> list[Tensor]:
    """
    The class of each pixel of a view, taken from the nearest pixel of the source.

    Args:
        batched_inputs: inputs with "sem_seg" (H, W), at the source's scale.
        sizes: of the view's images.

    Returns:
        classes (H', W') per image, of its size.
    """
    return [_nearest(x["sem_seg"], *size) for x, size in zip(batched_inputs, sizes, strict=True)]


def _nearest(labels: Tensor, height: int, width: int) -> Tensor:
    # By pixel centres; F.interpolate's "nearest-exact" takes no integers.
    rows, columns = (
        ((torch.arange(target, device=labels.device) + 0.5) * source / target).long()
        for source, target in zip(labels.shape, (height, width), strict=True)
    )
    return labels[rows[:, None], columns]


def semantic_losses(head: SemSegFPNHead, logits: Tensor, ground_truth: list[Tensor]) -> Losses:
    """
    Detectron2's loss of the semantic head, ``loss_sem_seg``; 0, still attached to the logits, where
    no pixel has a class.

    Args:
        logits: (N, K, h, w) from :func:`semantic_logits`.
        ground_truth: classes (H, W) per image, unpadded; the head's ``ignore_value`` for none.
    """
    height, width = (side * head.common_stride for side in logits.shape[-2:])
    targets = torch.stack(
        [
            F.pad(
                labels.to(logits.device),
                (0, width - labels.shape[1], 0, height - labels.shape[0]),
                value=head.ignore_value,
            )
            for labels in ground_truth
        ]
    )
    if (targets == head.ignore_value).all():
        return {"loss_sem_seg": logits.sum() * 0}
    return head.losses(logits, targets)


def semantic_distillation(
    student: Tensor,
    teacher: Tensor,
    student_sizes: Sizes,
    teacher_sizes: Sizes,
    *,
    temperature: float = 1.0,
    stride: int = 4,
) -> Tensor:
    """
    KL divergence between the pixels' class distributions, times the squared temperature, averaged
    over the student's pixels at ``stride``. Padding does not count; pixels without a class in the
    ground truth do, like all others.

    Where the teacher saw the image at another size, its probabilities (not its logits: they would
    not average to a distribution that anybody predicted) are averaged over the area of each of the
    student's pixels.

    Args:
        student, teacher: logits (N, K, h, w) of padded batches of the same images.
        student_sizes, teacher_sizes: the images' sizes in either.
        stride: px of the image per pixel of the logits.
    """
    divergences, count = [], 0
    for one, other, size, full_size in zip(
        student.float(), teacher.detach().float(), student_sizes, teacher_sizes, strict=True
    ):
        probabilities = (other / temperature).softmax(dim=0)
        target = averaged_over_cells(probabilities, full_size, stride, size, stride)
        height, width = target.shape[-2:]
        student = (one[:, :height, :width] / temperature).log_softmax(dim=0)
        divergences.append(F.kl_div(student, target, reduction="sum"))
        count += height * width
    return temperature**2 * sum(divergences) / count


@dataclass
class SemanticTeacher:
    """
    The full network's detached output in one iteration.

    Attributes:
        image_sizes: (height, width) per image, in pixels, before padding.
        logits: (N, K, h, w) at the head's stride.
        features: its pyramid, kept only if students learn from it.
    """

    image_sizes: Sizes
    logits: Tensor
    features: Features | None = None


def semantic_study(
    head: SemSegFPNHead,
    logits: Tensor,
    batched_inputs: list[dict],
    sizes: Sizes,
    teacher: SemanticTeacher,
    weights: Mapping[str, float],
    temperature: float,
) -> Losses:
    """
    Losses of a sub-network's semantic head.

    Args:
        logits: (N, K, h, w) from :func:`semantic_logits`.
        batched_inputs, sizes: the view and the sizes of its images; "sem_seg" is asked for only
            where the ground truth counts.
        weights: of the losses, by "GROUND_TRUTH" and "SEGMENTATION".
        temperature: of the class distributions.

    Returns:
        the weighted losses: ``loss_sem_seg`` for the ground truth's, ``loss_distill_sem_seg`` for
        the teacher's. A loss of weight 0 is neither computed nor returned.
    """
    losses: Losses = {}
    if weights["GROUND_TRUTH"] > 0:
        from_truth = semantic_losses(head, logits, semantic_ground_truth(batched_inputs, sizes))
        losses |= {name: weights["GROUND_TRUTH"] * loss for name, loss in from_truth.items()}
    if weights["SEGMENTATION"] > 0:
        losses["loss_distill_sem_seg"] = weights["SEGMENTATION"] * semantic_distillation(
            logits,
            teacher.logits,
            sizes,
            teacher.image_sizes,
            temperature=temperature,
            stride=head.common_stride,
        )
    return losses


# Meta-architecture -------------------------------------------------------------------------------


@META_ARCH_REGISTRY.register()
class MutualSemanticSegmentor(Teaching, SemanticSegmentor):
    """
    Detectron2's semantic segmentor that teaches its sub-networks.

    Args:
        others: as for :class:`Teaching` and :class:`SemanticSegmentor`; the head is Detectron2's of
            Panoptic FPN or slimmable.
    """

    @classmethod
    def from_config(cls, cfg):
        args = super().from_config(cfg)
        check_semantic_head(args["sem_seg_head"], cfg.MUTUALNET.SCOPE)
        return args

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise, pad and batch the images, as :class:`SemanticSegmentor` does in passing."""
        return normalised_batch(self, batched_inputs)

    def teach(self, batched_inputs: list[dict]) -> tuple[Losses, SemanticTeacher]:
        """
        Run a training pass of the full network, with Detectron2's loss.

        Args:
            batched_inputs: Detectron2's training inputs, or a resolution view of them: see
                :func:`mutualnet_det.data.views.view_at`.

        Returns:
            the loss, by Detectron2's name, and what the sub-networks learn from.
        """
        features, logits, sizes = self._predict(batched_inputs)
        ground_truth = semantic_ground_truth(batched_inputs, sizes)
        losses = semantic_losses(self.sem_seg_head, logits, ground_truth)
        kept = detached(features) if self.loss_weights["FEATURE"] > 0 else None
        return losses, SemanticTeacher(sizes, logits.detach(), kept)

    def study(self, batched_inputs: list[dict], teacher: SemanticTeacher) -> Losses:
        """
        Run a training pass of the sub-network whose width is in force.

        Args:
            batched_inputs: the teacher's batch at this pass's resolution.
            teacher: from :meth:`teach` on the same batch.

        Returns:
            the weighted losses: ``loss_sem_seg`` for the ground truth's, ``loss_distill_sem_seg``
            and ``loss_distill_feature`` for the teacher's. A loss of weight 0 is neither computed
            nor returned.
        """
        features, logits, sizes = self._predict(batched_inputs)
        losses = semantic_study(
            self.sem_seg_head,
            logits,
            batched_inputs,
            sizes,
            teacher,
            self.loss_weights,
            self.temperature,
        )
        return losses | feature_losses(
            self.backbone, features, sizes, teacher.features, teacher.image_sizes, self.loss_weights
        )

    def _predict(self, batched_inputs: list[dict]) -> tuple[Features, Tensor, Sizes]:
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        return features, semantic_logits(self.sem_seg_head, features), images.image_sizes


def check_semantic_head(head: nn.Module, scope: str) -> None:
    """ValueError for a semantic head that gives no logits to learn from, or does not slim."""
    if not isinstance(head, SemSegFPNHead):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NAME builds a {type(head).__name__}; a sub-network is taught by a "
            "SemSegFPNHead or a SlimmableSemSegFPNHead."
        )
    if scope == "heads":
        check_slimmable(head, "MODEL.SEM_SEG_HEAD.NAME")

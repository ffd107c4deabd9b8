"""
MutualRetinaNet: Detectron2's RetinaNet with two more training passes, and its slimmable head.

Each of the student's anchors is taught by that of the full network which corresponds to it, see
:mod:`.correspondence`: by that one's scores, and by its box, decoded and scaled back.

Shapes: N images, R anchors of an image on all levels, A of them per cell, K classes. Sizes are
(height, width) in pixels, before padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..data.views import scale_boxes, scale_ratio
from ..slimmable import Channels, Width
from .anchors import anchors_of
from .correspondence import corresponding_anchors
from .distillation import score_distillation
from .features import Features, Losses, Sizes, detached, feature_losses
from .layers import slimmed
from .teaching import Teaching


class SlimmableRetinaNetHead(RetinaNetHead):
    """
    Detectron2's RetinaNet head, slimmed; classes and boxes keep their outputs.

    Args:
        in_dim: the dimension of the pyramid's levels and of the hidden convolutions.
        width: the handle to share.
        norm: "": the head's norms, of each level their own, do not slim.
        others: as for :class:`RetinaNetHead`.
    """

    @configurable
    def __init__(self, *, in_dim: Channels, width: Width, norm: str = "", **kwargs) -> None:
        if norm:
            raise ValueError(
                f"MODEL.RETINANET.NORM is {norm!r}; under MUTUALNET.SCOPE 'heads' the head slims, "
                "and takes ''."
            )
        super().__init__(norm=norm, **kwargs)
        for subnet in (self.cls_subnet, self.bbox_subnet):
            for index, layer in enumerate(subnet):
                if isinstance(layer, nn.Conv2d):
                    subnet[index] = slimmed(layer, in_dim, in_dim, width)
        for name in ("cls_score", "bbox_pred"):
            layer = getattr(self, name)
            predictions = Channels.fixed(layer.out_channels)
            setattr(self, name, slimmed(layer, in_dim, predictions, width))

    @classmethod
    def from_config(cls, cfg, input_shape):
        args = super().from_config(cfg, input_shape)
        args["in_dim"] = Channels(cfg.MODEL.FPN.OUT_CHANNELS)
        args["width"] = Width(*cfg.MUTUALNET.WIDTH_RANGE)
        return args


# What the teacher says ---------------------------------------------------------------------------


@dataclass
class DenseTeacher:
    """
    The full network's detached output in one iteration.

    Attributes:
        image_sizes: (height, width) per image, in pixels, before padding.
        grid_sizes: (height, width) in cells of each level, as padded.
        class_logits: (N, R, K).
        boxes: decoded, (N, R, 4).
        features: its pyramid, kept only if students learn from it.
    """

    image_sizes: Sizes
    grid_sizes: Sizes
    class_logits: Tensor
    boxes: Tensor
    features: Features | None = None


@dataclass
class DensePredictions:
    """
    Predictions of the head in one pass.

    Attributes:
        image_sizes, grid_sizes: as in :class:`DenseTeacher`.
        anchors, class_logits, box_deltas: per level, (R', 4), (N, R', K) and (N, R', 4), where R'
            is the number of the level's anchors.
    """

    image_sizes: Sizes
    grid_sizes: Sizes
    anchors: list[Boxes]
    class_logits: list[Tensor]
    box_deltas: list[Tensor]


# Meta-architecture -------------------------------------------------------------------------------


@META_ARCH_REGISTRY.register()
class MutualRetinaNet(Teaching, RetinaNet):
    """
    Detectron2's RetinaNet that teaches its sub-networks.

    Args:
        others: as for :class:`Teaching` and :class:`RetinaNet`.
    """

    @classmethod
    def from_config(cls, cfg):
        args = super().from_config(cfg)
        if not isinstance(args["anchor_generator"], DefaultAnchorGenerator):
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR.NAME builds a {type(args['anchor_generator']).__name__}; "
                "MutualRetinaNet takes a DefaultAnchorGenerator."
            )
        if cfg.MUTUALNET.SCOPE == "heads":
            # RetinaNet has no registry of heads to name another one in.
            shapes = args["backbone"].output_shape()
            levels = [shapes[name] for name in cfg.MODEL.RETINANET.IN_FEATURES]
            args["head"] = SlimmableRetinaNetHead(cfg, levels)
        return args

    def teach(self, batched_inputs: list[dict]) -> tuple[Losses, DenseTeacher]:
        """
        Run a training pass of the full network, with Detectron2's losses.

        Args:
            batched_inputs: Detectron2's training inputs, or a resolution view of them: see
                :func:`mutualnet_det.data.views.view_at`.

        Returns:
            the losses, by Detectron2's names, and what the sub-networks learn from.
        """
        features, predictions = self._predict(batched_inputs)
        losses = self._ground_truth_losses(predictions, *self._targets(predictions, batched_inputs))
        deltas = torch.cat(predictions.box_deltas, dim=1).detach()
        anchors = Boxes.cat(predictions.anchors).tensor
        boxes = [self.box2box_transform.apply_deltas(x, anchors) for x in deltas]
        return losses, DenseTeacher(
            predictions.image_sizes,
            predictions.grid_sizes,
            torch.cat(predictions.class_logits, dim=1).detach(),
            torch.stack(boxes),
            detached(features) if self.loss_weights["FEATURE"] > 0 else None,
        )

    def study(self, batched_inputs: list[dict], teacher: DenseTeacher) -> Losses:
        """
        Run a training pass of the sub-network whose width is in force.

        Args:
            batched_inputs: the teacher's batch at this pass's resolution.
            teacher: from :meth:`teach` on the same batch.

        Returns:
            the weighted losses: Detectron2's names for those of the ground truth,
            ``loss_distill_class``, ``_box`` and ``_feature`` for the teacher's. A loss of weight 0
            is neither computed nor returned.
        """
        weights = self.loss_weights
        features, predictions = self._predict(batched_inputs)
        labels, boxes = self._targets(predictions, batched_inputs)
        losses: Losses = {}
        if weights["GROUND_TRUTH"] > 0:
            from_truth = self._ground_truth_losses(predictions, labels, boxes)
            losses |= {name: weights["GROUND_TRUTH"] * loss for name, loss in from_truth.items()}
        if weights["CLASS"] > 0 or weights["BOX"] > 0:
            losses |= self._distillation_losses(predictions, labels, teacher)
        return losses | feature_losses(
            self.backbone,
            features,
            predictions.image_sizes,
            teacher.features,
            teacher.image_sizes,
            weights,
        )

    def _ema_update(self, name, value, initial_value, momentum=0.9):
        """
        The divisor of Detectron2's losses: here the number of positive anchors of the pass alone
        (RetinaNet's own rule, arXiv 1708.02002, section 4.1). Its average over iterations would mix
        the passes, and a run that is resumed would start without it.
        """
        return value

    def _predict(self, batched_inputs: list[dict]) -> tuple[Features, DensePredictions]:
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.head_in_features]
        logits, deltas = self._transpose_dense_predictions(self.head(levels), [self.num_classes, 4])
        return features, DensePredictions(
            images.image_sizes,
            [tuple(level.shape[-2:]) for level in levels],
            anchors_of(self.anchor_generator, levels),
            logits,
            deltas,
        )

    def _targets(
        self, predictions: DensePredictions, batched_inputs: list[dict]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Classes (R,) and boxes (R, 4) of each image's anchors: see Detectron2's RetinaNet."""
        instances: list[Instances] = [x["instances"].to(self.device) for x in batched_inputs]
        return self.label_anchors(predictions.anchors, instances)

    def _ground_truth_losses(
        self, predictions: DensePredictions, labels: list[Tensor], boxes: list[Tensor]
    ) -> Losses:
        return self.losses(
            predictions.anchors, predictions.class_logits, labels, predictions.box_deltas, boxes
        )

    def _distillation_losses(
        self, predictions: DensePredictions, labels: list[Tensor], teacher: DenseTeacher
    ) -> Losses:
        """
        Weighted: the student's scores on all of its anchors that have a counterpart, against the
        counterpart's, and its box deltas on the positive ones, against those that lead to the
        counterpart's box (L1). Both are divided by the number of positive anchors, as the losses
        from the ground truth are.
        """
        weights, losses = self.loss_weights, {}
        anchors = Boxes.cat(predictions.anchors)
        sizes = list(zip(predictions.image_sizes, teacher.image_sizes, strict=True))
        pairs = [
            corresponding_anchors(
                *(self.anchor_generator, size, predictions.grid_sizes),
                *(full_size, teacher.grid_sizes),
            )
            for size, full_size in sizes
        ]
        positives = [(x >= 0) & (x != self.num_classes) for x in labels]
        divisor = max(int(sum(x.sum() for x in positives)), 1)
        if weights["CLASS"] > 0:
            logits = torch.cat(predictions.class_logits, dim=1)
            total = sum(
                score_distillation(one[exists], other[index[exists]], self.temperature)
                for one, other, (index, exists) in zip(
                    logits, teacher.class_logits, pairs, strict=True
                )
            )
            losses["loss_distill_class"] = weights["CLASS"] * total / divisor
        if weights["BOX"] > 0:
            deltas = torch.cat(predictions.box_deltas, dim=1)
            total = 0
            for image, ((index, exists), (size, full_size)) in enumerate(
                zip(pairs, sizes, strict=True)
            ):
                taught = exists & positives[image]
                boxes = Boxes(teacher.boxes[image][index[taught]])
                targets = self.box2box_transform.get_deltas(
                    anchors.tensor[taught], scale_boxes(boxes, scale_ratio(full_size, size)).tensor
                )
                total = total + (deltas[image][taught] - targets).abs().sum()
            losses["loss_distill_box"] = weights["BOX"] * total / divisor
        return losses

"""
Slimmable RPN, box, mask and keypoint heads: Detectron2's own, with their hidden dimensions slimmed.

Predictions (objectness, classes, boxes, masks, keypoints) keep their outputs. Names in the state
dict are Detectron2's. Under the scopes "backbone" and "neck" the heads stay as Detectron2 builds
them, so one set of names in a config serves every scope.
"""

from __future__ import annotations

from detectron2.config import configurable
from detectron2.modeling import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    RPN_HEAD_REGISTRY,
    StandardROIHeads,
)
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.modeling.roi_heads.box_head import FastRCNNConvFCHead
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.keypoint_head import KRCNNConvDeconvUpsampleHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from ..slimmable import Channels, Width
from .layers import check_slimmable, head_arguments, slimmed


def _heads_slim(cfg) -> bool:
    return cfg.MUTUALNET.SCOPE == "heads"


def _slim_children(module: nn.Module, dims: dict[str, tuple[Channels, Channels]], width: Width):
    for name, (in_channels, out_channels) in dims.items():
        setattr(module, name, slimmed(getattr(module, name), in_channels, out_channels, width))


@RPN_HEAD_REGISTRY.register()
class SlimmableRPNHead(StandardRPNHead):
    """
    Detectron2's RPN head with a slimmed hidden convolution.

    Args:
        in_dim: the dimension of the pyramid's levels; None leaves the head plain.
        width: the handle to share.
        others: as for :class:`StandardRPNHead`.
    """

    @configurable
    def __init__(self, *, in_dim: Channels | None = None, width: Width | None = None, **kwargs):
        super().__init__(**kwargs)
        if in_dim is None:
            return
        if getattr(self.conv, "out_channels", None) != self.objectness_logits.in_channels or (
            self.conv.in_channels != self.conv.out_channels
        ):
            raise ValueError(
                "A slimmable RPN head has one hidden convolution of the pyramid's own channels: "
                "MODEL.RPN.CONV_DIMS must be [-1]."
            )
        anchors, deltas = self.objectness_logits.out_channels, self.anchor_deltas.out_channels
        _slim_children(
            self,
            {
                "conv": (in_dim, in_dim),
                "objectness_logits": (in_dim, Channels.fixed(anchors)),
                "anchor_deltas": (in_dim, Channels.fixed(deltas)),
            },
            width,
        )

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), **head_arguments(cfg)}


@ROI_BOX_HEAD_REGISTRY.register()
class SlimmableFastRCNNConvFCHead(FastRCNNConvFCHead):
    """
    Detectron2's box head, slimmed.

    Args:
        in_dim: the dimension of the pyramid's levels; None leaves the head plain.
        conv_dims, fc_dims: channels at width 1.
        width: the handle to share.

    Input (R, C, 7, 7), output (R, D), where D is the last dimension at the width in force.
    """

    @configurable
    def __init__(
        self,
        input_shape,
        *,
        conv_dims: list[int],
        fc_dims: list[int],
        in_dim: Channels | None = None,
        width: Width | None = None,
        **kwargs,
    ):
        if in_dim is None:
            super().__init__(input_shape, conv_dims=conv_dims, fc_dims=fc_dims, **kwargs)
            return
        full = width.maximum
        super().__init__(
            input_shape,
            conv_dims=[Channels(c).at(full) for c in conv_dims],
            fc_dims=[Channels(c).at(full) for c in fc_dims],
            **kwargs,
        )
        dims: dict[str, tuple[Channels, Channels]] = {}
        current = in_dim
        for k, base in enumerate(conv_dims, start=1):
            dims[f"conv{k}"] = (current, Channels(base))
            current = Channels(base)
        positions = input_shape.height * input_shape.width
        for k, base in enumerate(fc_dims, start=1):
            if k == 1:
                current = Channels(current.base * positions, ratio=positions)
            dims[f"fc{k}"] = (current, Channels(base))
            current = Channels(base)
        _slim_children(self, dims, width)
        self.conv_norm_relus = [getattr(self, n) for n in dims if n.startswith("conv")]
        self.fcs = [getattr(self, n) for n in dims if n.startswith("fc")]
        self.out_dim = current

    @classmethod
    def from_config(cls, cfg, input_shape):
        args = super().from_config(cfg, input_shape)
        if _heads_slim(cfg) and not args["fc_dims"]:
            raise ValueError(
                "MODEL.ROI_BOX_HEAD.NUM_FC is 0; a slimmable box head needs a linear layer."
            )
        return {**args, **head_arguments(cfg)}


@ROI_MASK_HEAD_REGISTRY.register()
class SlimmableMaskRCNNConvUpsampleHead(MaskRCNNConvUpsampleHead):
    """
    Detectron2's mask head, slimmed; all but the predictor's outputs.

    Args:
        in_dim: the dimension of the pyramid's levels; None leaves the head plain.
        conv_dims: channels at width 1 of the convolutions and of the transposed one.
        width: the handle to share.

    Input (R, C, 14, 14), output (R, K, 28, 28), where K is the number of classes.
    """

    @configurable
    def __init__(
        self,
        input_shape,
        *,
        num_classes: int,
        conv_dims: list[int],
        in_dim: Channels | None = None,
        width: Width | None = None,
        **kwargs,
    ):
        if in_dim is None:
            super().__init__(input_shape, num_classes=num_classes, conv_dims=conv_dims, **kwargs)
            return
        full = width.maximum
        super().__init__(
            input_shape,
            num_classes=num_classes,
            conv_dims=[Channels(c).at(full) for c in conv_dims],
            **kwargs,
        )
        dims: dict[str, tuple[Channels, Channels]] = {}
        current = in_dim
        for k, base in enumerate(conv_dims, start=1):
            name = "deconv" if k == len(conv_dims) else f"mask_fcn{k}"
            dims[name] = (current, Channels(base))
            current = Channels(base)
        dims["predictor"] = (current, Channels.fixed(num_classes))
        _slim_children(self, dims, width)
        self.conv_norm_relus = [getattr(self, n) for n in dims if n.startswith("mask_fcn")]

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), **head_arguments(cfg)}


@ROI_KEYPOINT_HEAD_REGISTRY.register()
class SlimmableKRCNNConvDeconvUpsampleHead(KRCNNConvDeconvUpsampleHead):
    """
    Detectron2's keypoint head, slimmed; all but the heatmaps it ends with.

    Args:
        in_dim: the dimension of the pyramid's levels; None leaves the head plain.
        conv_dims: channels at width 1 of the convolutions.
        width: the handle to share.

    Input (R, C, 14, 14), output (R, P, 56, 56), where P is the number of keypoints.
    """

    @configurable
    def __init__(
        self,
        input_shape,
        *,
        num_keypoints: int,
        conv_dims: list[int],
        in_dim: Channels | None = None,
        width: Width | None = None,
        **kwargs,
    ):
        if in_dim is None:
            super().__init__(
                input_shape, num_keypoints=num_keypoints, conv_dims=conv_dims, **kwargs
            )
            return
        super().__init__(
            input_shape,
            num_keypoints=num_keypoints,
            conv_dims=[Channels(c).at(width.maximum) for c in conv_dims],
            **kwargs,
        )
        dims: dict[str, tuple[Channels, Channels]] = {}
        current = in_dim
        for k, base in enumerate(conv_dims, start=1):
            dims[f"conv_fcn{k}"] = (current, Channels(base))
            current = Channels(base)
        dims["score_lowres"] = (current, Channels.fixed(num_keypoints))
        _slim_children(self, dims, width)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {**super().from_config(cfg, input_shape), **head_arguments(cfg)}


def _slim_box_predictor(cfg, box_head: nn.Module, predictor: FastRCNNOutputLayers) -> None:
    check_slimmable(box_head, "MODEL.ROI_BOX_HEAD.NAME")
    hidden = box_head.out_dim
    _slim_children(
        predictor,
        {
            "cls_score": (hidden, Channels.fixed(predictor.cls_score.out_features)),
            "bbox_pred": (hidden, Channels.fixed(predictor.bbox_pred.out_features)),
        },
        Width(*cfg.MUTUALNET.WIDTH_RANGE),
    )


@ROI_HEADS_REGISTRY.register()
class SlimmableROIHeads(StandardROIHeads):
    """Detectron2's standard ROI heads whose box predictor takes a slimmed input."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        if _heads_slim(cfg):
            _slim_box_predictor(cfg, parts["box_head"], parts["box_predictor"])
        return parts


@ROI_HEADS_REGISTRY.register()
class SlimmableCascadeROIHeads(CascadeROIHeads):
    """Detectron2's ROI heads of Cascade R-CNN whose box predictors take slimmed inputs."""

    @classmethod
    def _init_box_head(cls, cfg, input_shape):
        parts = super()._init_box_head(cfg, input_shape)
        if _heads_slim(cfg):
            for head, predictor in zip(parts["box_heads"], parts["box_predictors"], strict=True):
                _slim_box_predictor(cfg, head, predictor)
        return parts

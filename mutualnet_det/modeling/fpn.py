"""A slimmable feature pyramid: Detectron2's FPN with slimmable convolutions in it."""

from __future__ import annotations

import math

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from ..slimmable import Channels
from .layers import GROUP_NORM_HINT, set_norms, slimmed


class SlimmableFPN(FPN):
    """
    Detectron2's FPN over a slimmable backbone; same state dict names.

    Args:
        bottom_up: a slimmable backbone: beside Detectron2's interface it has ``width``, the handle,
            and ``feature_channels``, the dimension of each feature.
        in_features: the bottom-up features to use, highest resolution first.
        out_channels: channels of every level at width 1.
        scope: "backbone": only the laterals' input slims. "neck": inside the pyramid everything
            does, its outputs do not. "heads": its outputs slim too.
        norm, top_block, fuse_type: as in Detectron2. The top block takes a pyramid level.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: list[str],
        out_channels: int,
        scope: str,
        norm: str = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
    ) -> None:
        if norm not in ("", "BN"):
            raise ValueError(
                f"MODEL.FPN.NORM is {norm!r}; a slimmable FPN takes '' or 'BN'. {GROUP_NORM_HINT}"
            )
        width = bottom_up.width
        dim = Channels(out_channels)
        outer = dim if scope == "heads" else Channels.fixed(dim.at(width.maximum))
        inner = Channels.fixed(dim.at(width.maximum)) if scope == "backbone" else dim
        super().__init__(bottom_up, in_features, dim.at(width.maximum), norm, top_block, fuse_type)
        for name in in_features:
            level = int(math.log2(bottom_up.output_shape()[name].stride))
            for kind, dims in (
                ("lateral", (bottom_up.feature_channels[name], inner)),
                ("output", (inner, outer)),
            ):
                key = f"fpn_{kind}{level}"
                setattr(self, key, slimmed(getattr(self, key), *dims, width))
        # FPN.forward walks these lists, lowest resolution first.
        levels = [int(math.log2(bottom_up.output_shape()[f].stride)) for f in in_features[::-1]]
        self.lateral_convs = [getattr(self, f"fpn_lateral{level}") for level in levels]
        self.output_convs = [getattr(self, f"fpn_output{level}") for level in levels]


@BACKBONE_REGISTRY.register()
def build_slimmable_fpn_backbone(cfg, input_shape: ShapeSpec) -> SlimmableFPN:
    """A slimmable FPN over the backbone that ``MODEL.FPN.BOTTOM_UP`` names."""
    return _build_fpn(cfg, _build_bottom_up(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_slimmable_retinanet_fpn_backbone(cfg, input_shape: ShapeSpec) -> SlimmableFPN:
    """
    The same with RetinaNet's levels p6 and p7, convolutions on top of p5.

    They hang on p5, not on the backbone's last feature as in Detectron2's default: that one slims
    under every scope, the pyramid's outputs under the scope "heads" only.
    """
    bottom_up = _build_bottom_up(cfg, input_shape)
    dim = Channels(cfg.MODEL.FPN.OUT_CHANNELS)
    full = dim.at(bottom_up.width.maximum)
    top_block = LastLevelP6P7(full, full, in_feature="p5")
    if cfg.MUTUALNET.SCOPE == "heads":
        top_block.p6 = slimmed(top_block.p6, dim, dim, bottom_up.width)
        top_block.p7 = slimmed(top_block.p7, dim, dim, bottom_up.width)
    return _build_fpn(cfg, bottom_up, top_block)


def _build_bottom_up(cfg, input_shape: ShapeSpec) -> Backbone:
    return BACKBONE_REGISTRY.get(cfg.MODEL.FPN.BOTTOM_UP)(cfg, input_shape)


def _build_fpn(cfg, bottom_up: Backbone, top_block: nn.Module) -> SlimmableFPN:
    pyramid = SlimmableFPN(
        bottom_up,
        cfg.MODEL.FPN.IN_FEATURES,
        cfg.MODEL.FPN.OUT_CHANNELS,
        scope=cfg.MUTUALNET.SCOPE,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
    set_norms(cfg, pyramid)  # also under Detectron2's own meta-architectures
    return pyramid

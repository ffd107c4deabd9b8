"""Slimmable twins of the layers Detectron2 builds its networks from."""

from __future__ import annotations

import copy
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import Conv2d
from torch import Tensor, nn

from ..slimmable import (
    Channels,
    SlimmableBatchNorm2d,
    SlimmableConv2d,
    SlimmableConvTranspose2d,
    SlimmableLayer,
    SlimmableLinear,
    Width,
    to_group_norm,
)

# For whoever asks one of Detectron2's keys for a norm that does not slim.
GROUP_NORM_HINT = "For group normalisation that slims, set it to 'BN' and MUTUALNET.NORM to 'GN'."


class SlimmableNormConv2d(SlimmableConv2d):
    """
    A slimmable :class:`detectron2.layers.Conv2d`: a convolution with a norm and an activation.

    Args:
        norm, activation: modules applied after the convolution, or None.
        others: as for :class:`SlimmableConv2d`.
    """

    def __init__(
        self,
        *args,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.norm = norm
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x

    def plain(self) -> Conv2d:
        conv = super().plain()
        plain = Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            bias=conv.bias is not None,
            norm=None if self.norm is None else self.norm.plain(),
            activation=copy.deepcopy(self.activation),
        )
        plain.weight, plain.bias = conv.weight, conv.bias
        return plain


def head_arguments(cfg: CfgNode) -> dict[str, Any]:
    """
    Arguments that a slimmable head takes from a config beside Detectron2's: ``in_dim``, the
    dimension of the pyramid's levels, and ``width``, a handle. Under the scopes "backbone" and
    "neck", nothing: the head stays plain.
    """
    if cfg.MUTUALNET.SCOPE != "heads":
        return {}
    return {
        "in_dim": Channels(cfg.MODEL.FPN.OUT_CHANNELS),
        "width": Width(*cfg.MUTUALNET.WIDTH_RANGE),
    }


def check_slimmable(module: nn.Module, key: str) -> None:
    """ValueError, naming the config key, for a part that stays plain under the scope "heads"."""
    if not any(isinstance(m, SlimmableLayer) for m in module.modules()):
        raise ValueError(
            f"MUTUALNET.SCOPE is 'heads', but {key} builds a {type(module).__name__}, which does "
            "not slim. Use the Slimmable one, or the scope 'neck' or 'backbone'."
        )


def set_norms(cfg: CfgNode, *parts: Any) -> None:
    """Make the slimmable norms inside the modules of ``parts`` those of ``MUTUALNET.NORM``."""
    if cfg.MUTUALNET.NORM == "GN":
        for part in parts:
            if isinstance(part, nn.Module):
                to_group_norm(part)


def slimmed(
    layer: nn.Module, in_channels: Channels, out_channels: Channels, width: Width
) -> nn.Module:
    """
    The slimmable twin of a layer that Detectron2 has built at the full channel counts.

    It takes over the layer's parameters, as Detectron2 initialised them, and their names.

    Args:
        layer: a Conv2d (Detectron2's or torch's), ConvTranspose2d, Linear or BatchNorm2d.
        in_channels, out_channels: its dimensions; at the largest width they must be the layer's.
    """
    if isinstance(layer, nn.BatchNorm2d):
        twin = SlimmableBatchNorm2d(out_channels, layer.eps, layer.momentum, width=width)
    elif isinstance(layer, nn.Linear):
        twin = SlimmableLinear(in_channels, out_channels, layer.bias is not None, width=width)
    elif isinstance(layer, nn.ConvTranspose2d):
        twin = SlimmableConvTranspose2d(
            in_channels,
            out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.bias is not None,
            width=width,
        )
    elif isinstance(layer, nn.Conv2d):
        norm = getattr(layer, "norm", None)
        twin = SlimmableNormConv2d(
            in_channels,
            out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.bias is not None,
            norm=None if norm is None else slimmed(norm, out_channels, out_channels, width),
            activation=getattr(layer, "activation", None),
            width=width,
        )
    else:
        raise TypeError(
            f"No slimmable twin for a {type(layer).__name__}. Of the norms that a NORM key names, "
            f"'BN' (or '') slims. {GROUP_NORM_HINT}"
        )
    if twin.weight.shape != layer.weight.shape:
        raise ValueError(
            f"{layer} has weights {tuple(layer.weight.shape)}, but {in_channels} to {out_channels} "
            f"makes {tuple(twin.weight.shape)} at width {width.maximum:g}."
        )
    twin.weight, twin.bias = layer.weight, layer.bias
    return twin

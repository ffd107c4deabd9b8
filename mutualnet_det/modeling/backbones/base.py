"""The base of the slimmable backbones: features by stride, freezing, a classifier."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...slimmable import Channels, Width

LOGITS = "logits"


class SlimmableBackbone(Backbone):
    """
    A slimmable network with features at strides 4, 8, 16 and 32, and a classifier if asked for.

    A subclass builds its layers, says in :meth:`stages` how they follow each other, and calls
    :meth:`describe` at the end of its constructor.

    Attributes:
        width: the handle its layers share.
        feature_channels: the dimension of each feature, by name.
        recomputes: whether backward computes activations again instead of keeping those of each
            layer (arXiv 1604.06174). It must run at the same width, as inside ``at_width``.

    Input (N, 3, H, W); feature ``resK`` is (N, C, H / 2^K, W / 2^K), ``logits`` (N, classes).
    """

    width: Width
    feature_channels: dict[str, Channels]
    recomputes: bool = False

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """
        The layers in the order they run, by stage.

        Stage 1 is all before the first layer at stride 4, the stem; stage K ends with ``resK``.
        """
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, classes) of the last feature (N, C, H, W)."""
        raise NotImplementedError

    def feature_entries(self) -> set[str]:
        """The names in the state dict of what features are made by, without a classifier's."""
        layers = itertools.chain.from_iterable(self.stages())
        tensors = [t for layer in layers for t in layer.state_dict(keep_vars=True).values()]
        ids = set(map(id, tensors))
        return {key for key, t in self.state_dict(keep_vars=True).items() if id(t) in ids}

    def describe(
        self,
        feature_channels: dict[str, Channels],
        out_features: Sequence[str],
        num_classes: int,
        freeze_at: int,
    ) -> None:
        """
        Args:
            feature_channels: dimensions of ``res2`` .. ``res5``.
            out_features: which of them, and of ``logits``, to give.
            num_classes: of the classifier; 0 without one.
            freeze_at: freeze weights, scale and shift of the first stages, up to 5. Statistics are
                never frozen.
        """
        known = [*feature_channels, LOGITS] if num_classes else list(feature_channels)
        unknown = [name for name in out_features if name not in known]
        if unknown:
            raise ValueError(f"out_features holds {unknown[0]!r}; expected {', '.join(known)}.")
        self.feature_channels = feature_channels
        self._out_features = list(out_features)
        self._out_feature_strides = {
            name: 2 ** int(name[-1]) for name in out_features if name != LOGITS
        }
        self._out_feature_channels = {
            name: num_classes if name == LOGITS else feature_channels[name].at(self.width.maximum)
            for name in out_features
        }
        stages = self.stages()
        if not 0 <= freeze_at <= len(stages):
            raise ValueError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}; expected 0 to {len(stages)}."
            )
        for stage in stages[:freeze_at]:
            for layer in stage:
                layer.requires_grad_(False)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name],
                stride=self._out_feature_strides.get(name),
            )
            for name in self._out_features
        }

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        outputs = {}
        for number, stage in enumerate(self.stages(), start=1):
            for layer in stage:
                if self.recomputes and torch.is_grad_enabled():
                    # Nothing in a layer is random.
                    x = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False)
                else:
                    x = layer(x)
            if f"res{number}" in self._out_features:
                outputs[f"res{number}"] = x
        if LOGITS in self._out_features:
            outputs[LOGITS] = self.classify(x)
        return outputs


def cut(layers: nn.Sequential, ends: Sequence[int]) -> list[list[nn.Module]]:
    """The layers in consecutive runs, each up to one of ``ends``: the index behind its last."""
    in_order = list(layers)
    return [in_order[start:end] for start, end in itertools.pairwise([0, *ends])]


def initialise(network: nn.Module) -> None:
    """
    Torchvision's initialisation of MobileNets and VGG: convolutions normal by their fan-out (arXiv
    1502.01852), linear layers normal with a standard deviation of 0.01, no biases.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def backbone_arguments(cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
    """
    The constructor arguments that every backbone takes from a config.

    With ``MODEL.BACKBONE.NUM_CLASSES`` above 0 it is a classification network and gives logits
    alone; else a detector's backbone, which gives its features.
    """
    arguments: dict[str, Any] = {
        "width": Width(*cfg.MUTUALNET.WIDTH_RANGE),
        "in_channels": input_shape.channels,
        "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
    }
    if cfg.MODEL.BACKBONE.NUM_CLASSES > 0:
        arguments |= {"num_classes": cfg.MODEL.BACKBONE.NUM_CLASSES, "out_features": (LOGITS,)}
    return arguments

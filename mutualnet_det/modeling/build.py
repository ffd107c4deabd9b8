"""Building what a config describes."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from ..building import explaining_config
from ..config import LOSS_TERMS, ConfigError
from ..slimmable import share_statistics
from .backbones import SlimmableBackbone


def build_network(cfg: CfgNode) -> nn.Module:
    """
    Build as Detectron2's ``build_model`` does, with the weights stored channels-last.

    Convolutions take their layout from them, and depthwise ones and those on tensor cores are
    faster so; values and names do not change.

    Raises:
        ConfigError: for a name or value in the config that nothing can be built from.
    """
    with explaining_config("the network"):
        return build_model(cfg).to(memory_format=torch.channels_last)


def build_training_network(cfg: CfgNode) -> nn.Module:
    """
    Build a network in training mode, which recomputes activations and shares batch statistics among
    processes as the config says.

    Raises:
        ConfigError: if its meta-architecture has no sub-networks to teach.
    """
    model = build_network(cfg)
    if not hasattr(model, "teach"):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE!r}, which teaches no "
            f"sub-networks; expected one of {', '.join(LOSS_TERMS)}."
        )
    for module in model.modules():
        if isinstance(module, SlimmableBackbone):
            module.recomputes = cfg.MUTUALNET.RECOMPUTE_ACTIVATIONS
    if comm.get_world_size() > 1 and cfg.MUTUALNET.SYNC_STATISTICS:
        share_statistics(model)
    return model.train()

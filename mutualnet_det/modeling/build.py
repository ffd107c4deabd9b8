"""Building what a config describes."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from ..building import explaining_config
from ..config import LOSS_TERMS, ConfigError
from ..precision import set_matmul_precision, training_dtype
from ..slimmable import share_statistics
from .backbones import SlimmableBackbone
from .memory_format import laid_out


def build_network(cfg: CfgNode, dtype: torch.dtype = torch.float32) -> nn.Module:
    """
    Build as Detectron2's ``build_model`` does, with the weights laid out as suits the device, which
    from here on multiplies matrices as ``MUTUALNET.MATMUL_PRECISION`` says.

    Args:
        dtype: that convolutions compute in; see :func:`laid_out`.

    Raises:
        ConfigError: for a name or value in the config that nothing can be built from.
    """
    set_matmul_precision(cfg)
    with explaining_config("the network"):
        return laid_out(build_model(cfg), dtype)


def build_training_network(cfg: CfgNode) -> nn.Module:
    """
    Build a network in training mode, which recomputes activations and shares batch statistics among
    processes as the config says.

    Raises:
        ConfigError: if its meta-architecture has no sub-networks to teach.
    """
    model = build_network(cfg, training_dtype(cfg))
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

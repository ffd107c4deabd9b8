"""Building what a config describes."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn


def build_network(cfg: CfgNode) -> nn.Module:
    """
    Detectron2's ``build_model``, with its weights stored channels-last.

    Convolutions take their layout from them, and depthwise ones and those on tensor cores are
    faster so; values and names do not change.
    """
    return build_model(cfg).to(memory_format=torch.channels_last)

"""How the weights of a network lie in memory: convolutions take their layout from them."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def laid_out(network: Network, dtype: torch.dtype = torch.float32) -> Network:
    """
    The network, with its weights as suits its device; values and names do not change.

    Args:
        dtype: that convolutions compute in.
    """
    device = next(network.parameters()).device
    return network.to(memory_format=memory_format(network, device, dtype))


def memory_format(
    network: nn.Module, device: torch.device, dtype: torch.dtype
) -> torch.memory_format:
    """
    The memory format that is faster on a device; `mutualnet benchmark-layouts` measures both.

    On a CPU it is channels-last, above all for depthwise convolutions. On a GPU it is so in mixed
    precision, for tensor cores, unless group normalisation would turn each map to channels-first
    and back.
    """
    grouped = any(isinstance(module, nn.GroupNorm) for module in network.modules())
    if device.type == "cuda" and (dtype == torch.float32 or grouped):
        return torch.contiguous_format
    return torch.channels_last

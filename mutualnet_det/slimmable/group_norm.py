"""
Group normalisation over a slimmable dimension (Wu & He, arXiv 1803.08494).

Each image is normalised by itself, so there are no statistics to calibrate, and training and
evaluation compute the same at every operating point.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from .channels import Channels
from .layers import copy_into
from .norm import SlimmableBatchNorm2d, SlimmableNorm
from .width import Width

# Fixed is how many channels a group has, not how many groups there are: each width then has the
# full network's first groups, whole. Counts are multiples of 8.
GROUP_SIZE = 8


class SlimmableGroupNorm(SlimmableNorm, nn.GroupNorm):
    """
    :class:`torch.nn.GroupNorm` over the first channels. Input and output (N, C, H, W).

    A group has 8 channels. Where the count is not a multiple of 8 at every width, it has as many as
    divide both: 2 inside ResNet's bottlenecks (of ratio 0.25), as the narrowest of them have among
    the paper's 32 groups.
    """

    def __init__(
        self, channels: Channels, eps: float = 1e-5, *, width: Width | None = None
    ) -> None:
        width = Width() if width is None else width
        count = channels.at(width.maximum)
        self.group_size = math.gcd(GROUP_SIZE, channels.divisor)
        super().__init__(count // self.group_size, count, eps)
        self.dim = channels
        self._slim(width)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == 0:  # torch 2.14 refuses it
            return x
        return F.group_norm(x, x.shape[1] // self.group_size, *self._affine(), self.eps)

    def plain(self) -> nn.GroupNorm:
        weight, bias = self._affine()
        count = weight.shape[0]
        norm = nn.GroupNorm(count // self.group_size, count, self.eps).to(weight)
        return copy_into(norm, weight=weight, bias=bias)


def to_group_norm(module: nn.Module) -> None:
    """
    Replace every slimmable batch normalisation inside ``module`` by group normalisation of the same
    dimension, scale and shift.
    """
    for name, child in module.named_children():
        if isinstance(child, SlimmableBatchNorm2d):
            twin = SlimmableGroupNorm(child.dim, child.eps, width=child.width)
            twin.weight, twin.bias = child.weight, child.bias
            setattr(module, name, twin)
        else:
            to_group_norm(child)

"""A small network with every kind of slimmable layer in it."""

import pytest
import torch
from torch import nn

from mutualnet_det.slimmable import (
    Channels,
    SlimmableBatchNorm2d,
    SlimmableConv2d,
    SlimmableConvTranspose2d,
    SlimmableLinear,
    Width,
)


@pytest.fixture
def make_network():
    """
    ``make_network(minimum, maximum)``: convolutions, norms and a linear layer of random weights.

    Input (N, 3, 8, 8), output (N, 5).
    """

    def make(minimum=0.25, maximum=1.0):
        torch.manual_seed(0)
        width = Width(minimum, maximum)
        wide, deep = Channels(32), Channels(96, ratio=6)
        network = nn.Sequential(
            SlimmableConv2d(Channels.fixed(3), deep, 3, padding=1, width=width),
            SlimmableBatchNorm2d(deep, width=width),
            nn.ReLU(),
            SlimmableConv2d(deep, deep, 3, 2, padding=1, depthwise=True, width=width),
            SlimmableConvTranspose2d(deep, wide, 2, stride=2, width=width),
            SlimmableBatchNorm2d(wide, width=width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            SlimmableLinear(Channels(32 * 4, ratio=4), Channels.fixed(5), width=width),
        )
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        return network

    return make


@pytest.fixture
def network(make_network):
    return make_network()


@pytest.fixture
def images():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))

"""Gathered gradients are those that autograd adds up by itself."""

import copy

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
    at_width,
    gathered_gradients,
)


class Network(nn.Module):
    """Every kind of layer, one of them used three times, one behind weights that are frozen."""

    def __init__(self):
        super().__init__()
        width, dim, features = Width(0.25, 1.0), Channels(32), Channels(32 * 16, ratio=16)
        self.stem = SlimmableConv2d(Channels.fixed(3), dim, 3, padding=1, width=width)
        self.stem.requires_grad_(False)
        self.norm = SlimmableBatchNorm2d(dim, width=width)
        self.depthwise = SlimmableConv2d(dim, dim, 3, padding=1, depthwise=True, width=width)
        self.shared = SlimmableConv2d(dim, dim, 1, bias=False, width=width)
        self.up = SlimmableConvTranspose2d(dim, dim, 2, 2, width=width)
        self.linear = SlimmableLinear(features, Channels.fixed(5), width=width)
        self.plain = nn.Linear(5, 2)

    def forward(self, x):
        x = self.depthwise(self.norm(self.stem(x)))
        for _ in range(3):
            x = self.shared(x).relu()
        return self.plain(self.linear(self.up(x).flatten(1)))


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def network(request):
    torch.manual_seed(0)
    return Network().to(memory_format=request.param)


def passes(network, widths, gather):
    """The gradients of several passes, added up; what is gathered each time is what they add."""
    for number, width in enumerate(widths):
        x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(number))
        with at_width(network, width):
            if gather:
                with gathered_gradients(network):
                    network(x).square().sum().backward()
            else:
                network(x).square().sum().backward()
    return {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("widths", [(0.25,), (1.0,), (1.0, 0.25, 0.6), (0.6, 0.3, 1.0)])
def test_gradients_are_autograds_own(network, widths):
    expected = passes(copy.deepcopy(network), widths, gather=False)
    found = passes(network, widths, gather=True)
    assert found["stem.weight"] is None and found["linear.weight"].abs().sum() > 0
    for name, gradient in expected.items():
        if gradient is not None:
            assert torch.equal(found[name], gradient), name
            assert found[name].stride() == network.get_parameter(name).stride(), name


def test_a_parameter_that_no_loss_reaches_has_no_gradient(network):
    x = torch.randn(4, 3, 2, 2)
    with at_width(network, 0.5), gathered_gradients(network):
        network(x)
        network.stem(x).sum()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_error_adds_nothing_and_ends_the_gathering(network):
    x = torch.randn(4, 3, 2, 2)
    with pytest.raises(ZeroDivisionError), at_width(network, 0.5), gathered_gradients(network):
        network(x).sum().backward()
        raise ZeroDivisionError
    assert network.shared.weight.grad is None
    with at_width(network, 0.5):
        network(x).sum().backward()
    assert network.shared.weight.grad is not None


def test_without_gradients_nothing_is_gathered(network):
    with torch.no_grad(), at_width(network, 0.5), gathered_gradients(network):
        network(torch.randn(4, 3, 2, 2))
        assert network.norm.width.shared.leaves == {}

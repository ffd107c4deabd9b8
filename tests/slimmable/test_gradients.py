"""Gathered gradients are those that autograd adds up by itself."""

import copy

import pytest
import torch
from torch import nn

from mutualnet_det.slimmable import at_width, gathered_gradients


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def network(make_network, request):
    """Every kind of slimmable layer, the first one frozen, and a layer that is never slimmed."""
    network = make_network()
    network[0].requires_grad_(False)
    network.append(nn.Linear(5, 2))
    return network.to(memory_format=request.param)


def loss(network, x):
    """The loss of a network that uses each layer three times."""
    return sum(network(part).square().sum() for part in (x, 2 * x, x.flip(-1)))


def passes(network, widths, gather):
    """The gradients of several passes, added up; what is gathered each time is what they add."""
    for number, width in enumerate(widths):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        with at_width(network, width):
            if gather:
                with gathered_gradients(network):
                    loss(network, x).backward()
            else:
                loss(network, x).backward()
    return {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("widths", [(0.25,), (1.0,), (1.0, 0.25, 0.6), (0.6, 0.3, 1.0)])
def test_gradients_are_autograds_own(network, widths):
    expected = passes(copy.deepcopy(network), widths, gather=False)
    actual = passes(network, widths, gather=True)
    assert actual["0.weight"] is None and actual["9.weight"].abs().sum() > 0
    for name, gradient in expected.items():
        if gradient is not None:
            assert torch.equal(actual[name], gradient), name
            assert actual[name].stride() == network.get_parameter(name).stride(), name


def test_a_parameter_that_no_loss_reaches_has_no_gradient(network, images):
    with at_width(network, 0.5), gathered_gradients(network):
        loss(network, images)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_an_error_adds_nothing_and_ends_the_gathering(network, images):
    with pytest.raises(ZeroDivisionError), at_width(network, 0.5), gathered_gradients(network):
        loss(network, images).backward()
        raise ZeroDivisionError
    assert network[3].weight.grad is None
    with at_width(network, 0.5):
        loss(network, images).backward()
    assert network[3].weight.grad is not None


def test_without_gradients_nothing_is_gathered(network, images):
    with torch.no_grad(), at_width(network, 0.5), gathered_gradients(network):
        network(images)
        assert network[1].width.shared.leaves == {}

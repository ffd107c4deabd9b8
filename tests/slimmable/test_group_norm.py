"""Slimmable group normalisation: whole groups at every width, and nothing but scale and shift."""

import copy

import pytest
import torch
from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from mutualnet_det.slimmable import (
    Channels,
    SlimmableBatchNorm2d,
    SlimmableGroupNorm,
    Width,
    at_width,
    gathered_gradients,
    sliced,
    to_group_norm,
)

# Dimensions of MobileNetV2's blocks, inside and outside, and of ResNet's bottlenecks, with the
# channels that a group has there.
DIMENSIONS = [(Channels(32), 8), (Channels(96, ratio=6), 8), (Channels(64, ratio=0.25), 2)]


def randomised(norm):
    torch.manual_seed(0)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return norm


def features(count):
    return torch.randn(4, count, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 3


@pytest.mark.parametrize("dim, group_size", DIMENSIONS)
@pytest.mark.parametrize("width", [0.25, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_is_a_plain_norm_with_the_first_weights(dim, group_size, width, training):
    norm = randomised(SlimmableGroupNorm(dim)).train(training)
    count = dim.at(width)
    plain = nn.GroupNorm(count // group_size, count)
    plain.load_state_dict({name: value[:count] for name, value in norm.state_dict().items()})
    with at_width(norm, width):
        normalised = norm(features(count))
        assert type(norm.plain()) is nn.GroupNorm
        assert torch.equal(norm.plain()(features(count)), normalised)
    torch.testing.assert_close(normalised, plain(features(count)))


@pytest.mark.parametrize("dim, _", DIMENSIONS)
def test_groups_are_the_full_networks(dim, _):
    norm = randomised(SlimmableGroupNorm(dim, width=Width(0.1, 1.5)))
    x = features(dim.at(1.5))
    full = norm(x)
    for width in (step / 40 for step in range(4, 60)):
        count = dim.at(width)
        with at_width(norm, width):
            torch.testing.assert_close(norm(x[:, :count]), full[:, :count])


def test_a_fixed_dimension_has_groups_that_divide_it():
    assert [SlimmableGroupNorm(Channels.fixed(c)).num_groups for c in (1280, 12, 3)] == [160, 3, 3]


@pytest.mark.parametrize("shape", [(0, 16, 5, 5), (2, 16, 0, 5)])
def test_empty_input(shape):
    norm = SlimmableGroupNorm(Channels(32))
    with at_width(norm, 0.5):
        assert norm(torch.zeros(shape)).shape == shape


def test_is_a_norm_to_detectron2s_optimiser_builder():
    norm = SlimmableGroupNorm(Channels(32))
    groups = get_default_optimizer_params(norm, base_lr=0.1, weight_decay=1, weight_decay_norm=0)
    assert [group["weight_decay"] for group in groups] == [0]
    assert {id(p) for p in groups[0]["params"]} == {id(norm.weight), id(norm.bias)}


# In place of batch normalisation ------------------------------------------------------------------


@pytest.fixture
def normalised(network):
    to_group_norm(network)
    return network


def test_takes_over_scale_and_shift(make_network):
    network = make_network()
    network[1].eps = 0.1
    network[1].requires_grad_(False)
    before = dict(network.named_parameters())
    to_group_norm(network)
    after = dict(network.named_parameters())
    assert list(after) == list(before) and all(after[name] is before[name] for name in before)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network)
    assert isinstance(network[5], SlimmableGroupNorm) and network[5].dim == Channels(32)
    assert network[1].eps == 0.1 and set(network.state_dict()) == set(before)


def test_inside_other_modules(make_network):
    network = nn.ModuleDict({"a": nn.Sequential(make_network())})
    to_group_norm(network)
    assert not any(isinstance(m, SlimmableBatchNorm2d) for m in network.modules())
    kept = nn.Sequential(nn.BatchNorm2d(8))  # of others: not slimmable
    to_group_norm(kept)
    assert type(kept[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("width", [0.3, 1.0])
def test_sliced_without_calibration(normalised, images, width):
    with torch.no_grad(), at_width(normalised.eval(), width):
        expected, plain = normalised(images), sliced(normalised)
        torch.testing.assert_close(plain(images), expected)
    assert [type(plain[i]) for i in (1, 5)] == [nn.GroupNorm, nn.GroupNorm]


def test_gathered_gradients_are_autograds_own(normalised, images):
    alone = copy.deepcopy(normalised)
    for width in (0.25, 0.6, 1.0):
        with at_width(alone, width):
            alone(images).square().sum().backward()
        with at_width(normalised, width), gathered_gradients(normalised):
            normalised(images).square().sum().backward()
    expected = dict(alone.named_parameters())
    for name, parameter in normalised.named_parameters():
        assert parameter.grad.abs().sum() > 0
        assert torch.equal(parameter.grad, expected[name].grad), name

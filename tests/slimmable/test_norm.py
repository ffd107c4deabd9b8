"""Slimmable batch normalisation: what it normalises by, and what it keeps."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from mutualnet_det.slimmable import (
    Channels,
    SlimmableBatchNorm2d,
    UncalibratedError,
    Width,
    at_width,
)


@pytest.fixture
def norm():
    torch.manual_seed(0)
    norm = SlimmableBatchNorm2d(Channels(32))
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def features(count, seed=0, scale=1.0):
    return torch.randn(4, count, 5, 5, generator=torch.Generator().manual_seed(seed)) * scale + 3


def statistics(norm):
    return [norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()]


def normalised(x, norm):
    """``x`` by its own statistics, with the shared scale and shift."""
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    scale = norm.weight[: x.shape[1]] / (variance + norm.eps).sqrt()
    shape = (1, -1, 1, 1)
    return (x - mean.view(shape)) * scale.view(shape) + norm.bias[: x.shape[1]].view(shape)


def test_is_a_norm_to_detectron2s_optimiser_builder(norm):
    assert isinstance(norm, nn.BatchNorm2d)
    base = get_cfg().SOLVER.BASE_LR
    groups = get_default_optimizer_params(norm, base_lr=base, weight_decay=1, weight_decay_norm=0)
    assert [group["weight_decay"] for group in groups] == [0]
    assert {id(p) for p in groups[0]["params"]} == {id(norm.weight), id(norm.bias)}


def test_state_dict_is_the_plain_norms(norm):
    plain = nn.BatchNorm2d(32)
    plain.load_state_dict(norm.state_dict(), strict=True)


@pytest.mark.parametrize("training", [True, False])
def test_full_network_is_a_plain_norm(norm, training):
    plain = nn.BatchNorm2d(32)
    plain.load_state_dict(norm.state_dict())
    x = features(32)
    torch.testing.assert_close(norm.train(training)(x), plain.train(training)(x))
    for left, right in zip(statistics(norm), statistics(plain), strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("width", [0.25, 0.5, 0.7])
def test_sub_network_trains_on_its_batch_and_updates_nothing(norm, width):
    before = statistics(norm)
    with at_width(norm, width):
        x = features(norm.dim.at(width))
        torch.testing.assert_close(norm(x), normalised(x, norm))
    for left, right in zip(statistics(norm), before, strict=True):
        assert torch.equal(left, right)


def test_untracked_pass_of_full_width_updates_nothing(norm):
    before = statistics(norm)
    with at_width(norm, 1.0, track=False):
        torch.testing.assert_close(norm(features(32)), normalised(features(32), norm))
    assert all(map(torch.equal, statistics(norm), before))
    with at_width(norm, 1.0):
        norm(features(32))
    assert not torch.equal(norm.running_mean, before[0])


def test_a_pass_inside_an_untracked_one_tracks_again(norm):
    before = statistics(norm)
    with at_width(norm, 0.5, track=False), at_width(norm, 1.0):
        norm(features(32))
    assert not torch.equal(norm.running_mean, before[0])


@pytest.mark.parametrize("width", [0.25, 0.55])
def test_evaluating_an_uncalibrated_sub_network_names_the_width(norm, width):
    norm.eval()
    with at_width(norm, width), pytest.raises(UncalibratedError, match=f"Width {width} has no"):
        norm(features(norm.dim.at(width)))


def test_statistics_in_force_win_in_both_modes(norm):
    mean, variance = torch.randn(16), torch.rand(16) + 0.5
    before = statistics(norm)
    x = features(16)
    expected = F.batch_norm(x, mean, variance, norm.weight[:16], norm.bias[:16])
    for training in (True, False):
        norm.train(training)
        with at_width(norm, 0.5, statistics={norm: (mean.clone(), variance.clone())}):
            torch.testing.assert_close(norm(x), expected)
    assert all(map(torch.equal, statistics(norm), before))


@pytest.mark.parametrize("training", [True, False])
def test_empty_input_passes_and_leaves_no_trace(norm, training):
    before = statistics(norm)
    norm.train(training)
    for width, count in ((0.5, 16), (1.0, 32)):
        with at_width(norm, width):
            assert norm(torch.zeros(0, count, 7, 7)).shape == (0, count, 7, 7)
    assert all(map(torch.equal, statistics(norm), before))


def test_frozen_scale_and_shift_leave_statistics_free(norm):
    norm.requires_grad_(False)
    before = statistics(norm)
    norm(features(32))
    assert not torch.equal(norm.running_mean, before[0])


def test_gradients_reach_the_active_scale_and_shift_alone(norm):
    with at_width(norm, 0.5):
        norm(features(16)).square().sum().backward()
    for parameter in (norm.weight, norm.bias):
        assert parameter.grad[:16].abs().min() > 0
        assert parameter.grad[16:].abs().max() == 0


@pytest.mark.parametrize("change", [lambda n: n.weight.data.mul_(2), lambda n: n.half().float()])
def test_scale_is_never_stale(norm, change):
    norm.eval()
    in_force = {norm: (torch.zeros(16), torch.ones(16))}
    x = features(16)
    for _ in range(3):
        with at_width(norm, 0.5, statistics=in_force), torch.no_grad():
            expected = F.batch_norm(x, *in_force[norm], norm.weight[:16], norm.bias[:16])
            torch.testing.assert_close(norm(x), expected)
        change(norm)


def test_plain_needs_statistics(norm):
    with at_width(norm, 0.5), pytest.raises(UncalibratedError, match="Width 0.5 has no"):
        norm.plain()
    mean, variance = torch.randn(16), torch.rand(16)
    with at_width(norm, 0.5, statistics={norm: (mean, variance)}):
        plain = norm.plain()
    assert type(plain) is nn.BatchNorm2d
    assert torch.equal(plain.running_mean, mean)
    assert torch.equal(plain.running_var, variance)
    assert torch.equal(plain.weight, norm.weight[:16])


def test_plain_of_the_full_network_has_its_state_dict(norm):
    norm(features(32))
    state = norm.plain().state_dict()
    for name, tensor in norm.state_dict().items():
        assert torch.equal(state[name], tensor), name


def test_width_above_one():
    norm = SlimmableBatchNorm2d(Channels(32), width=Width(0.5, 1.6))
    assert norm.num_features == 48
    before = statistics(norm)
    with at_width(norm, 1.0):  # width 1 is a sub-network here
        norm(features(32))
    assert all(map(torch.equal, statistics(norm), before))

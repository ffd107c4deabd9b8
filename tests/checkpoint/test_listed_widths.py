"""Widths told from channel counts, and the statistics that a checkpoint lists for them."""

import pytest
import torch
from torchvision.models._utils import _make_divisible

from mutualnet_det.checkpoint.listed_widths import infer_width, split_listed, was_updated
from mutualnet_det.slimmable import Channels

# Of MobileNetV2 and of a bottleneck: base, ratio.
DIMS = {
    "mobilenet_v2": [(32, 1), (16, 1), (24, 1), (64, 1), (960, 6), (320, 1)],
    "resnet": [(64, 0.25), (256, 1), (512, 0.25), (2048, 1)],
}


def counts(bases, width):
    return {
        str(i): int(_make_divisible(base * width / ratio, 8) * ratio)
        for i, (base, ratio) in enumerate(bases)
    }


@pytest.mark.parametrize("network", DIMS)
@pytest.mark.parametrize("width", [0.25, 0.35, 0.5, 0.7, 0.75, 0.9, 0.95, 1.0, 1.3, 1.6])
def test_published_widths_are_told(network, width):
    dims = {str(i): Channels(*dim) for i, dim in enumerate(DIMS[network])}
    assert infer_width(counts(DIMS[network], width), dims) == width


@pytest.mark.parametrize("width, told", [(0.225, 0.225), (0.33, 0.33), (0.263, 0.26)])
def test_finer_widths_are_told_where_channels_allow(width, told):
    dims = {str(i): Channels(*dim) for i, dim in enumerate(DIMS["resnet"])}
    assert infer_width(counts(DIMS["resnet"], width), dims) == told


def test_roundest_width_wins():
    assert infer_width({"a": 16}, {"a": Channels(32)}) == 0.5  # others from 0.29 to 0.62 have it


def test_dimensions_that_do_not_slim_tell_nothing():
    dims = {"a": Channels(320), "b": Channels.fixed(1280)}
    assert infer_width({"a": 224, "b": 1280}, dims) == 0.7
    assert infer_width({"b": 1280}, dims) is None


@pytest.mark.parametrize(
    "channels", [{"a": 24, "b": 320}, {"a": 23, "b": 224}, {"a": 0, "b": 0}, {}]
)
def test_no_width(channels):
    assert infer_width(channels, {"a": Channels(32), "b": Channels(320)}) is None


def test_split():
    mean, var = torch.ones(8), torch.full((8,), 2.0)
    state = {
        "features.0.0.weight": torch.zeros(1),
        "features.0.1.bn.10.running_mean": mean,
        "features.0.1.bn.10.running_var": var,
        "features.0.1.bn.10.num_batches_tracked": torch.tensor(3),
        "features.0.1.bn.2.running_mean": mean[:4],
        "features.0.1.bn.2.running_var": var[:4],
        "features.1.bn.2.running_mean": mean,  # without its variance
        "features.18.1.running_mean": mean,
    }
    plain, listed = split_listed(state)
    assert list(plain) == ["features.0.0.weight", "features.18.1.running_mean"]
    assert list(listed) == [2, 10] and list(listed[2]) == ["features.0.1"]
    assert listed[10]["features.0.1"][1] is var


def test_was_updated():
    start = (torch.zeros(4), torch.ones(4))
    assert not was_updated({"a": start, "b": start})
    assert was_updated({"a": start, "b": (torch.zeros(4), torch.tensor([1, 1, 1, 1.01]))})
    assert was_updated({"a": start, "b": (torch.tensor([0, 0, 0, 0.01]), torch.ones(4))})

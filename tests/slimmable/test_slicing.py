"""Slicing a plain network out of a slimmable one."""

import pytest
import torch
from torch import nn

from mutualnet_det.slimmable import (
    Calibrations,
    Channels,
    OperatingPoint,
    SlimmableConv2d,
    SlimmableLayer,
    UncalibratedError,
    Width,
    at_width,
    sliced,
    width_of,
)

WIDTHS = [0.25, 0.4, 0.7, 1.0]


@pytest.fixture
def calibrations(network, images):
    calibrations = Calibrations(network.eval())
    for width in WIDTHS:
        calibrations.calibrate(OperatingPoint(width, 8), [images])
    return calibrations


@pytest.mark.parametrize("width", WIDTHS)
def test_is_plain_and_computes_the_same(network, calibrations, images, width):
    with calibrations.at(OperatingPoint(width, 8)):
        plain = sliced(network)
        expected = network(images)
    assert not any(isinstance(module, SlimmableLayer) for module in plain.modules())
    assert [type(m) for m in plain][:6] == [
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.ReLU,
        nn.Conv2d,
        nn.ConvTranspose2d,
        nn.BatchNorm2d,
    ]
    assert not plain.training
    torch.testing.assert_close(plain(images), expected, rtol=0, atol=1e-6)


def test_of_an_untouched_model_is_the_full_network(network, images):
    plain = sliced(network.eval())
    torch.testing.assert_close(plain(images), network(images), rtol=0, atol=0)
    state = network.state_dict()
    assert plain.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.state_dict().items())


def test_has_no_width_and_shares_no_memory(network, calibrations, images):
    width_of(network)
    network.width = network[0].width  # as backbones keep the handle they were made with
    with calibrations.at(OperatingPoint(0.4, 8)):
        plain = sliced(network)
    with pytest.raises(ValueError, match="no slimmable layer"):
        width_of(plain)
    expected = plain(images)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.zero_()
    torch.testing.assert_close(plain(images), expected, rtol=0, atol=0)
    assert network.width is network[0].width  # the source keeps its handles


def test_of_an_uncalibrated_width_is_an_error(network):
    with at_width(network, 0.4), pytest.raises(UncalibratedError, match="Width 0.4 has no"):
        sliced(network)


def test_of_the_model_itself():
    layer = SlimmableConv2d(Channels(32), Channels(32), 1)
    with at_width(layer, 0.5):
        plain = sliced(layer)
    assert type(plain) is nn.Conv2d
    assert plain.weight.shape == (16, 16, 1, 1)


def test_keeps_training_mode_module_by_module(network):
    network.train()
    network[1].eval()
    plain = sliced(network)
    assert (plain.training, plain[1].training, plain[5].training) == (True, False, True)


def test_keeps_layers_that_stand_in_lists_too():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = SlimmableConv2d(Channels(32), Channels(32), 1, width=Width())
            self.convs = [self.conv]  # as FPN keeps its laterals

    plain = sliced(Listed())
    assert plain.convs[0] is plain.conv

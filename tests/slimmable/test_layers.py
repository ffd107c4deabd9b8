"""Slimmable layers against their plain counterparts, and the cache of their slices."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mutualnet_det.slimmable import (
    Channels,
    SlimmableConv2d,
    SlimmableConvTranspose2d,
    SlimmableLinear,
    Width,
    at_width,
)

WIDTHS = [0.25, 0.4, 0.7, 1.0]


def conv():
    return SlimmableConv2d(Channels(32), Channels(64), 3, stride=2, padding=1)


def dilated():
    return SlimmableConv2d(Channels(32), Channels(64), 3, padding=2, dilation=2, bias=False)


def depthwise():
    dim = Channels(192, ratio=6)
    return SlimmableConv2d(dim, dim, 3, padding=1, depthwise=True)


def transposed():
    return SlimmableConvTranspose2d(Channels(32), Channels(64), 2, stride=2)


def linear():
    return SlimmableLinear(Channels(32 * 49, ratio=49), Channels(64))


def image_layer():
    return SlimmableConv2d(Channels.fixed(3), Channels(32), 3)


def class_layer():
    return SlimmableLinear(Channels(64), Channels.fixed(5))


LAYERS = [conv, dilated, depthwise, transposed, linear, image_layer, class_layer]


def input_for(layer, width):
    count = layer.in_dim.at(width)
    torch.manual_seed(7)
    shape = (2, count) if isinstance(layer, nn.Linear) else (2, count, 6, 6)
    return torch.randn(shape)


def reference(layer, width, x):
    """The layer computed from slices cut by hand: each kind of weight has its own order."""
    count_in, count_out = layer.in_dim.at(width), layer.out_dim.at(width)
    bias = None if layer.bias is None else layer.bias[:count_out]
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight[:count_out, :count_in], bias)
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out, height, width)
        weight = layer.weight[:count_in, :count_out]
        return F.conv_transpose2d(x, weight, bias, layer.stride, layer.padding)
    if layer.depthwise:  # (channels, 1, height, width)
        return F.conv2d(x, layer.weight[:count_out], bias, padding=1, groups=count_out)
    weight = layer.weight[:count_out, :count_in]
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("make", LAYERS)
def test_output_is_the_plain_layers(make, width):
    layer = make()
    x = input_for(layer, width)
    with at_width(layer, width):
        expected = reference(layer, width, x)
        torch.testing.assert_close(layer(x), expected)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected.detach())
        torch.testing.assert_close(layer.plain()(x), expected)


@pytest.mark.parametrize("make", LAYERS)
def test_state_dict_is_the_plain_layers(make):
    layer = make()
    plain = layer.plain()
    assert type(plain) in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    assert isinstance(layer, type(plain))
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in layer.state_dict().items()} == shapes


@pytest.mark.parametrize("make", LAYERS)
def test_plain_layer_shares_no_memory(make):
    layer = make()
    plain = layer.plain()
    assert plain.weight.data_ptr() != layer.weight.data_ptr()


@pytest.mark.parametrize("make", LAYERS)
def test_gradients_reach_the_active_slice_alone(make):
    layer = make()
    with at_width(layer, 0.4):
        layer(input_for(layer, 0.4)).square().sum().backward()
        active = layer.plain()
    for name, parameter in layer.named_parameters():
        inside = tuple(slice(count) for count in getattr(active, name).shape)
        assert parameter.grad[inside].abs().min() > 0, name
        outside = parameter.grad.clone()
        outside[inside] = 0
        assert outside.abs().max() == 0, name


def test_gradients_add_up_over_widths():
    layer = conv()
    expected = torch.zeros_like(layer.weight)
    for width in WIDTHS:
        x = input_for(layer, width)
        (gradient,) = torch.autograd.grad(reference(layer, width, x).sum(), layer.weight)
        expected += gradient
        with at_width(layer, width):
            layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, expected)


def test_linear_behind_a_map_takes_its_first_channels():
    layer = linear()
    full = torch.randn(2, 32, 7, 7)
    slim = full.clone()
    slim[:, 8:] = 0
    with at_width(layer, 0.25):
        outputs = layer(full[:, :8].flatten(1))
    # At full width, a map whose other channels are 0 gives the same.
    torch.testing.assert_close(outputs, layer(slim.flatten(1))[:, :16])


def test_depthwise_needs_equal_dimensions():
    with pytest.raises(ValueError, match="equal input and output dimensions"):
        SlimmableConv2d(Channels(32), Channels(64), 3, depthwise=True)


def test_widths_above_one():
    layer = SlimmableConv2d(Channels(32), Channels(64), 1, width=Width(0.5, 1.6))
    assert layer.weight.shape == (104, 48, 1, 1)  # 51.2 rounds to 48, 102.4 to 104
    x = torch.randn(1, 32, 2, 2)
    with at_width(layer, 1.0):
        torch.testing.assert_close(layer(x), reference(layer, 1.0, x))


# A slice is cached in passes without gradients. Each of these changes the weight after one.


def optimiser_step(**options):
    def change(layer):
        for parameter in layer.parameters():
            parameter.grad = torch.ones_like(parameter)
        torch.optim.SGD(layer.parameters(), lr=0.1, **options).step()

    return change


def load(assign):
    def change(layer):
        # Twice: the second may well get the memory that the first has freed.
        for _ in range(2):
            state = {name: torch.randn_like(t) for name, t in layer.state_dict().items()}
            layer.load_state_dict(state, assign=assign)

    return change


def cast_and_back(layer):
    layer.half().float()


def to_double(layer):
    layer.double()


def in_place(layer):
    with torch.no_grad():
        layer.weight.mul_(2)


def in_place_in_inference_mode(layer):
    with torch.inference_mode():
        layer.weight.mul_(2)


def new_parameter(layer):
    for _ in range(2):
        layer.weight = nn.Parameter(torch.randn_like(layer.weight))


def new_data(layer):
    for _ in range(2):
        layer.weight.data = torch.randn_like(layer.weight)


def data_in_place_then_train(layer):
    layer.weight.data.mul_(2)
    layer.train().eval()


CHANGES = {
    "step": optimiser_step(foreach=False),
    "foreach step": optimiser_step(foreach=True),
    "fused step": optimiser_step(fused=True),
    "load": load(assign=False),
    "load, assigning": load(assign=True),
    "cast and back": cast_and_back,
    "double": to_double,
    "in place": in_place,
    "in place in inference mode": in_place_in_inference_mode,
    "new parameter": new_parameter,
    "new data": new_data,
    "data in place, then train()": data_in_place_then_train,
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("make", [conv, depthwise, transposed, linear])
def test_no_stale_slice_is_used(make, change, mode):
    layer = make().eval()
    x = input_for(layer, 0.4)
    with at_width(layer, 0.4), mode():
        layer(x)
    # Several times: whether freed memory is used again is a matter of luck.
    for _ in range(3):
        change(layer)
        x = x.to(layer.weight.dtype)
        with at_width(layer, 0.4), mode():
            torch.testing.assert_close(layer(x), reference(layer, 0.4, x), rtol=0, atol=0)


def test_weights_made_in_inference_mode_have_no_stale_slice():
    with torch.inference_mode():
        layer = conv().eval()
        x = input_for(layer, 0.4)
        with at_width(layer, 0.4):
            for _ in range(3):
                torch.testing.assert_close(layer(x), reference(layer, 0.4, x), rtol=0, atol=0)
                layer.weight.mul_(2)


def test_a_slice_is_cut_once():
    layer = conv().eval()
    with at_width(layer, 0.4), torch.no_grad():
        first = layer._slice("weight", 24, 16)
        assert first.is_contiguous()
        assert layer._slice("weight", 24, 16) is first


def test_the_large_linear_weight_is_not_copied():
    layer = linear().eval()
    with at_width(layer, 0.4), torch.no_grad():
        layer(input_for(layer, 0.4))
        assert layer._active()[0].data_ptr() == layer.weight.data_ptr()


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
    ids=["copy", "pickle"],
)
def test_cache_is_not_copied(copied):
    layer = conv().eval()
    x = input_for(layer, 0.4)
    with at_width(layer, 0.4), torch.no_grad():
        layer(x)
        twin = copied(layer)
    assert layer._slices._entries
    assert not twin._slices._entries
    with torch.no_grad():
        twin.weight.mul_(2)
        with at_width(twin, 0.4):
            torch.testing.assert_close(twin(x), reference(twin, 0.4, x))
    with at_width(layer, 0.4), torch.no_grad():
        torch.testing.assert_close(layer(x), reference(layer, 0.4, x))


def test_a_cached_slice_keeps_the_layout_of_its_weight():
    x = torch.randn(1, 16, 5, 5)
    outputs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = SlimmableConv2d(Channels(16), Channels(32), 3).to(memory_format=layout)
        with torch.no_grad(), at_width(layer, 0.5):
            outputs.append(layer(x[:, :8]))
            (_, piece), *_ = layer._slices._entries.values()
        assert piece.shape == (16, 8, 3, 3) and piece.is_contiguous(memory_format=layout)
    torch.testing.assert_close(*outputs)

"""One width per model: switching, restoring, joining, copying and sharing between threads."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mutualnet_det.slimmable import Channels, SlimmableConv2d, Width, at_width, width_of
from mutualnet_det.slimmable import width as width_module


def conv(width=None):
    return SlimmableConv2d(Channels(32), Channels(32), 1, width=width)


def test_restores_on_exit(network):
    with at_width(network, 0.5):
        assert width_of(network).value == 0.5
    assert width_of(network).value == 1.0


def test_restores_on_error(network):
    with pytest.raises(KeyError), at_width(network, 0.5):
        raise KeyError
    assert width_of(network).value == 1.0


def test_nests(network):
    with at_width(network, 0.5):
        with at_width(network, 0.25):
            assert width_of(network).value == 0.25
        assert width_of(network).value == 0.5
        with pytest.raises(RuntimeError), at_width(network, 0.75):
            raise RuntimeError
        assert width_of(network).value == 0.5


@pytest.mark.parametrize("width", [0.2499, 1.01, 0, -1, float("nan"), float("inf")])
def test_width_outside_the_range_is_an_error(network, width):
    with pytest.raises(ValueError, match=r"outside the range.*\[0.25, 1.0\]") as error:
        with at_width(network, width):
            pass
    assert str(width) in str(error.value)
    assert width_of(network).value == 1.0


@pytest.mark.parametrize("limits", [(0, 1), (-0.5, 1), (1, 0.5), (float("nan"), 1)])
def test_range_must_be_one(limits):
    with pytest.raises(ValueError, match="0 < minimum <= maximum"):
        Width(*limits)


def test_limits_belong_to_the_range(network):
    for width in (0.25, 1, 1.0):
        with at_width(network, width):
            assert width_of(network).value == width


def test_untouched_model_is_the_full_network(make_network, images):
    torch.manual_seed(3)
    untouched, switched = make_network().eval(), make_network().eval()
    expected = untouched(images)
    with at_width(switched, 1.0):
        torch.testing.assert_close(switched(images), expected, rtol=0, atol=0)
    assert width_of(untouched).is_full


def test_full_network_may_be_above_one(make_network, images):
    network = make_network(0.5, 1.6).eval()
    assert network[0].out_channels == 6 * 24  # 16 * 1.6 = 25.6 rounds to 24
    assert width_of(network).value == 1.6
    network(images)
    with at_width(network.train(), 1.0):
        assert network[0](images).shape[1] == 96


def test_model_without_slimmable_layers_has_no_width():
    with pytest.raises(ValueError, match="Linear has no slimmable layer"):
        width_of(nn.Linear(2, 2))


def test_parts_built_apart_are_joined():
    model = nn.Sequential(conv(), conv())
    assert model[0].width is not model[1].width
    with at_width(model, 0.5):
        assert model[0].width.value == model[1].width.value == 0.5
        assert model(torch.randn(1, 16, 2, 2)).shape[1] == 16


def test_a_part_used_alone_before_is_joined_too():
    model = nn.Sequential(nn.Sequential(conv(), conv()), conv())
    with at_width(model[0], 0.5):
        pass
    with at_width(model, 0.5):
        assert {layer.width.value for layer in (model[0][0], model[0][1], model[1])} == {0.5}
        # Its own handle follows the model's.
        assert width_of(model[0]).value == 0.5


def test_switching_a_part_switches_the_model():
    model = nn.Sequential(conv(), conv())
    width_of(model)
    with at_width(model[1], 0.5):
        assert model[0].width.value == 0.5


def test_different_ranges_are_refused():
    model = nn.Sequential(conv(Width(0.25, 1)), conv(Width(0.5, 1)))
    with pytest.raises(ValueError, match=r"one width range.*0.5.*0.25"):
        width_of(model)


def test_deepcopy_has_a_width_of_its_own(network, images):
    width_of(network)
    twin = copy.deepcopy(network)
    with at_width(network, 0.5):
        assert width_of(twin).value == 1.0
        with at_width(twin, 0.25):
            assert width_of(network).value == 0.5
            assert {m.width.value for m in twin.modules() if hasattr(m, "width")} == {0.25}
    torch.testing.assert_close(twin.eval()(images), network.eval()(images), rtol=0, atol=0)


def test_deepcopy_inside_starts_at_full_width(network):
    with at_width(network, 0.5):
        twin = copy.deepcopy(network)
    assert width_of(twin).value == 1.0


def test_deepcopy_keeps_parts_joined():
    model = nn.Sequential(conv(), conv())
    width_of(model)
    twin = copy.deepcopy(model)
    with at_width(twin, 0.5):
        assert twin[0].width.value == twin[1].width.value == 0.5
    assert model[0].width.shared is not twin[0].width.shared


def test_pickle_keeps_widths_apart(network, images):
    with at_width(network, 0.5):
        twin = pickle.loads(pickle.dumps(network))
        assert width_of(twin).value == 1.0
        with at_width(twin, 0.25):
            assert width_of(network).value == 0.5
            assert {m.width.value for m in twin.modules() if hasattr(m, "width")} == {0.25}
    torch.testing.assert_close(twin.eval()(images), network.eval()(images), rtol=0, atol=0)


def test_a_second_thread_waits(network):
    order = []
    started = threading.Event()

    def second():
        started.set()
        with at_width(network, 0.25):
            order.append(("second", width_of(network).value))

    thread = threading.Thread(target=second)
    with at_width(network, 0.5):
        thread.start()
        started.wait()
        thread.join(timeout=0.1)
        assert thread.is_alive()
        order.append(("first", width_of(network).value))
    thread.join(timeout=10)
    assert order == [("first", 0.5), ("second", 0.25)]
    assert width_of(network).value == 1.0


def test_two_models_do_not_wait_for_each_other(make_network):
    one, other = make_network(), make_network()
    seen = []

    def second():
        with at_width(other, 0.25):
            seen.append(width_of(other).value)

    with at_width(one, 0.5):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=10)
        assert seen == [0.25]


def test_switching_costs_the_same_for_ten_layers_as_for_a_thousand(monkeypatch):
    models = [nn.Sequential(*(conv() for _ in range(layers))) for layers in (10, 1000)]
    for model in models:
        width_of(model)
    writes = []

    def count(self, name, value):
        writes.append(name)
        object.__setattr__(self, name, value)

    monkeypatch.setattr(width_module._Shared, "__setattr__", count)
    monkeypatch.setattr(Width, "__setattr__", count)
    monkeypatch.setattr(nn.Module, "modules", lambda self: pytest.fail("walked over the modules"))
    monkeypatch.setattr(nn.Module, "__setattr__", lambda *_: pytest.fail("set on a module"))
    counts = []
    for model in models:
        writes.clear()
        with at_width(model, 0.5):
            assert model[-1].width.value == 0.5
        counts.append(len(writes))
    assert counts[0] == counts[1] > 0


def test_backward_inside_recomputes_at_the_same_width(network, images):
    expected, actual = [], []
    for gradients, run in ((expected, network), (actual, lambda x: checkpoint_of(network, x))):
        network.zero_grad()
        with at_width(network, 0.5):
            run(images).square().sum().backward()
        gradients += [p.grad.clone() for p in network.parameters()]
    for left, right in zip(expected, actual, strict=True):
        torch.testing.assert_close(left, right)


def checkpoint_of(network, x):
    return checkpoint(network, x, use_reentrant=False)

"""Networks in state dicts of others: behind prefixes, beside other entries, with other heads."""

import pytest
import torch
import torchvision.models

from mutualnet_det.checkpoint import CheckpointError
from mutualnet_det.checkpoint.recognising import recognise_state


@pytest.fixture(scope="module")
def resnet():
    with torch.device("meta"):
        return torchvision.models.resnet50().state_dict()


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "model.", "_orig_mod.", "module.encoder_q.", "model._orig_mod.backbone."),
        *("_fsdp_wrapped_module.module.", "student.net."),
    ],
)
def test_prefix_of_all_entries(resnet, prefix):
    network = recognise_state(prefixed(resnet, prefix), "a.pth")
    assert str(network.layout) == "ResNet-50 of torchvision"
    assert network.names == list(network.plain) == list(resnet)
    assert network.outside == []


def test_prefix_that_features_alone_have():
    """All entries of a network without its classifier begin alike, and that is no prefix."""
    with torch.device("meta"):
        state = torchvision.models.mobilenet_v2().features.state_dict()
    names = list(prefixed(state, "features."))
    for prefix in ("", "model."):
        network = recognise_state(prefixed(state, f"{prefix}features."), "a.pth")
        assert network.names == names


def test_a_part_that_was_compiled(resnet):
    state = {name.replace("layer1.", "layer1._orig_mod."): v for name, v in resnet.items()}
    assert recognise_state(state, "a.pth").names == list(resnet)


def test_entries_beside_the_network(resnet):
    state = {**prefixed(resnet, "backbone."), "neck.conv.weight": torch.zeros(1)}
    network = recognise_state(state, "a.pth")
    assert network.names == list(resnet) and network.outside == ["neck.conv.weight"]


def test_head_of_another_kind(resnet):
    """MoCo's has two layers, where the classifier is."""
    state = {name: value for name, value in resnet.items() if not name.startswith("fc.")}
    state |= {f"fc.{index}.{part}": torch.zeros(1) for index in (0, 2) for part in ("weight", "b")}
    network = recognise_state(prefixed(state, "module.encoder_q."), "a.pth")
    assert str(network.layout) == "ResNet-50 of torchvision" and not network.outside


def test_two_networks(resnet):
    both = prefixed(resnet, "module.encoder_q.") | prefixed(resnet, "module.encoder_k.")
    both["module.queue"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match="holds 2 networks") as error:
        recognise_state(both, "a.pth")
    for text in ("module.encoder_q, module.encoder_k", "--prefix module.encoder_q."):
        assert text in str(error.value)
    for prefix in ("module.encoder_k", "module.encoder_k."):
        network = recognise_state(both, "a.pth", prefix)
        assert len(network.outside) == len(resnet) + 1 and "module.queue" in network.outside
    with pytest.raises(CheckpointError, match="no entry that begins with encoder_k."):
        recognise_state(both, "a.pth", "encoder_k")


def test_the_error_is_of_the_names_without_the_prefix():
    with torch.device("meta"):
        state = torchvision.models.resnet34().state_dict()
    with pytest.raises(CheckpointError, match=r"ResNet-50 of torchvision.*missing 85: layer1\.0"):
        recognise_state(prefixed(state, "model."), "a.pth")

"""Exported networks load into the models of others strictly, and compute the same there."""

import pytest
import timm
import torch
import torchvision.models
from torch import nn

from mutualnet_det.checkpoint import (
    CheckpointError,
    MutualCheckpointer,
    export_backbone,
    import_backbone,
    provenance,
)
from mutualnet_det.modeling.build import build_network
from mutualnet_det.modeling.classifier import network_of

TIMM = {"mobilenet_v2": "mobilenetv2_100"}


def build_other(names, name):
    if names == "timm":
        return timm.create_model(TIMM.get(name, name), num_classes=5)
    return torchvision.models.get_model(name, num_classes=5)


@pytest.fixture
def classification_cfg(tiny_cfg):
    """Makes the config of a classification network of 5 classes."""

    def make(builder):
        tiny_cfg.MODEL.META_ARCHITECTURE = "MutualClassifier"
        tiny_cfg.MODEL.BACKBONE.NAME = f"build_slimmable_{builder}_backbone"
        tiny_cfg.MODEL.BACKBONE.NUM_CLASSES = 5
        return tiny_cfg

    return make


@pytest.mark.parametrize("names", ["torchvision", "timm"])
@pytest.mark.parametrize(
    "builder, name",
    [
        ("mobilenet_v2", "mobilenet_v2"),
        ("resnet", "resnet50"),
        pytest.param("resnet", "resnet152", marks=pytest.mark.slow),
        pytest.param("vgg16_bn", "vgg16_bn", marks=pytest.mark.slow),
    ],
)
def test_network_trained_here(classification_cfg, tmp_path, names, builder, name):
    """Of widths 0.25 to 1, as training leaves it: in the layout of channels that is fastest."""
    cfg = classification_cfg(builder)
    cfg.MODEL.RESNETS.DEPTH = int(name.removeprefix("resnet")) if builder == "resnet" else 50
    torch.manual_seed(0)
    network = network_of(build_network(cfg))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 0.6)  # 50 blocks' outputs are summed
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    MutualCheckpointer(network, cfg, str(tmp_path)).save("model_final")
    out = tmp_path / "out.pth"
    export_backbone(str(tmp_path / "model_final.pth"), str(out), names)
    other = build_other(names, name)
    other.load_state_dict(torch.load(out, weights_only=True), strict=True)
    image = torch.randn(1, 3, 224, 224) if builder == "vgg16_bn" else torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        actual, expected = other.eval()(image), network.eval()(image)["logits"]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 1e-4


@pytest.mark.parametrize("source", ["torchvision", "timm"])
@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "resnet50", pytest.param("vgg16_bn", marks=pytest.mark.slow)]
)
def test_import_and_export_give_back_what_was_there(random_network, tmp_path, source, name):
    state = random_network(lambda: build_other(source, name)).state_dict()
    torch.save(state, tmp_path / "a.pth")
    import_backbone(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"))
    export_backbone(str(tmp_path / "b.pth"), str(tmp_path / "c.pth"), source)
    written = torch.load(tmp_path / "c.pth", weights_only=True)
    assert written.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(written[key], value) and written[key].is_contiguous()


def save(path, cfg, model):
    torch.save({"model": model, "mutualnet": provenance(cfg)}, path)


def test_what_cannot_be_exported(tiny_cfg, classification_cfg, tmp_path):
    path, out = tmp_path / "a.pth", tmp_path / "out.pth"

    def refuse(text, names="torchvision"):
        with pytest.raises(CheckpointError, match=text) as error:
            export_backbone(str(path), str(out), names)
        assert str(path) in str(error.value) and not out.exists()

    refuse("no checkpoint")
    network = torchvision.models.mobilenet_v2(num_classes=5)
    torch.save(network.state_dict(), path)
    refuse("no classification checkpoint of this project")
    save(path, tiny_cfg, {"backbone.bottom_up.features.0.0.weight": torch.zeros(1)})
    refuse("no classification checkpoint of this project")
    save(path, classification_cfg("mobilenet_v1"), network.state_dict())
    refuse("which timm does not have. Known are: .*MobileNetV2", "timm")
    cfg = classification_cfg("mobilenet_v2")
    state = network.state_dict()
    save(path, cfg, {name: value for name, value in state.items() if ".running_" not in name})
    refuse("no whole MobileNetV2")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    save(path, cfg, {n: v for n, v in state.items() if not n.endswith(statistics)})
    refuse("MUTUALNET.NORM GN; a MobileNetV2 of torchvision has batch normalisation")
    state.pop("classifier.1.weight")
    save(path, cfg, state)
    refuse("no whole MobileNetV2 with its classifier: 1 entries are missing.*classifier.1.weight")

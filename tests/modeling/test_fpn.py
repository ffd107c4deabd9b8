"""The slimmable feature pyramid: its dimensions under each scope, against Detectron2's FPN."""

import pytest
import torch
from detectron2.layers import Conv2d
from detectron2.modeling import FPN, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from mutualnet_det.modeling import SlimmableFPN
from mutualnet_det.modeling.backbones import MobileNetV2
from mutualnet_det.slimmable import (
    Calibrations,
    OperatingPoint,
    SlimmableBatchNorm2d,
    Width,
    at_width,
    sliced,
)

IN_FEATURES = ["res2", "res3", "res4", "res5"]
POINT = OperatingPoint(0.25, 64)


def pyramid(scope, maximum=1.0, **options):
    torch.manual_seed(0)
    bottom_up = MobileNetV2(Width(0.25, maximum))
    return SlimmableFPN(bottom_up, IN_FEATURES, 64, scope, top_block=LastLevelMaxPool(), **options)


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


# Channels at width 0.25 of: the pyramid's inside, its outputs. 64 at full width, 16 slimmed.
@pytest.mark.parametrize(
    ("scope", "inner", "outer"), [("backbone", 64, 64), ("neck", 16, 64), ("heads", 16, 16)]
)
def test_scope_says_what_slims(scope, inner, outer):
    model = pyramid(scope)
    with at_width(model, 0.25):
        features = model(images())
        for level, count in zip(range(2, 6), (8, 8, 24, 80), strict=True):
            lateral = getattr(model, f"fpn_lateral{level}").plain()
            output = getattr(model, f"fpn_output{level}").plain()
            assert lateral.weight.shape == (inner, count, 1, 1)
            assert output.weight.shape == (outer, inner, 3, 3)
    assert {name: x.shape[1] for name, x in features.items()} == dict.fromkeys(
        ["p2", "p3", "p4", "p5", "p6"], outer
    )


@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
def test_state_dict_and_shapes_are_detectron2s(scope):
    model = pyramid(scope)
    plain = FPN(MobileNetV2(Width()), IN_FEATURES, 64, top_block=LastLevelMaxPool())
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == shapes
    assert model.output_shape() == plain.output_shape()
    assert model.size_divisibility == plain.size_divisibility == 32


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
@pytest.mark.parametrize("norm", ["", "BN"])
def test_equals_detectron2s_pyramid_of_that_width(torchvision_backbone, norm, fuse_type):
    model = pyramid("heads", norm=norm, fuse_type=fuse_type).eval()
    for name, module in model.named_modules():
        if name.startswith("fpn_") and isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    calibrations = Calibrations(model)
    calibrations.calibrate(POINT, [images()])
    expected = FPN(
        torchvision_backbone(0.25),
        IN_FEATURES,
        16,
        norm=norm,
        top_block=LastLevelMaxPool(),
        fuse_type=fuse_type,
    ).eval()
    with torch.no_grad(), calibrations.at(POINT):
        plain = sliced(model)
        expected.load_state_dict(plain.state_dict(), strict=True)
        actual, again, reference = model(images()), plain(images()), expected(images())
    assert type(plain.fpn_lateral2) is Conv2d
    for name, features in reference.items():
        assert (actual[name] - features).abs().max() < 1e-5
        assert (again[name] - features).abs().max() < 1e-5
        assert features.std() > 0.1


def test_norms_slim_and_the_backbone_has_no_other():
    model = pyramid("heads", norm="BN")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(isinstance(norm, SlimmableBatchNorm2d) for norm in norms)
    assert isinstance(model.fpn_lateral3.norm, SlimmableBatchNorm2d)


@pytest.mark.parametrize("norm", ["GN", "SyncBN", "FrozenBN"])
def test_norm_that_cannot_slim_is_an_error(norm):
    with pytest.raises(
        ValueError, match=f"MODEL.FPN.NORM is '{norm}'; .* takes '' or 'BN'.*MUTUALNET.NORM"
    ):
        pyramid("heads", norm=norm)


def test_widths_above_one():
    model = pyramid("heads", maximum=1.6)
    assert model.output_shape()["p2"].channels == 104  # 102.4, rounded
    assert model(images())["p6"].shape[1] == 104
    with at_width(model, 1.0):
        assert model(images())["p6"].shape[1] == 64


def test_gradients_reach_what_the_scope_slims():
    model = pyramid("neck")
    with at_width(model, 0.25):
        sum(x.square().sum() for x in model(images()).values()).backward()
    gradient = model.fpn_output2.weight.grad
    assert gradient[:, :16].abs().amax((0, 2, 3)).min() > 0
    assert gradient[:, 16:].abs().max() == 0


@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
def test_is_built_from_the_config(tiny_cfg, scope):
    tiny_cfg.MUTUALNET.SCOPE = scope
    tiny_cfg.MODEL.FPN.NORM = "BN"
    model = build_backbone(tiny_cfg)
    assert isinstance(model, SlimmableFPN)
    assert isinstance(model.bottom_up, MobileNetV2)
    with at_width(model, 0.25):
        assert model(images())["p2"].shape[1] == (8 if scope == "heads" else 32)

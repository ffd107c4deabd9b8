"""The MobileNetV2 backbone against torchvision's and against the public code's outputs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from mutualnet_det.checkpoint import import_backbone
from mutualnet_det.modeling.backbones import MobileNetV2
from mutualnet_det.slimmable import Calibrations, OperatingPoint, Width, at_width, sliced

WIDTHS = [0.25, 0.35, 0.5, 0.55, 0.7, 0.85, 0.95, 1.0, 1.2, 1.3, 1.4, 1.6]
FIXTURES = Path(__file__).parents[2] / "../shared/fixtures"


def backbone(minimum=0.25, maximum=1.0, **options):
    torch.manual_seed(0)
    model = MobileNetV2(Width(minimum, maximum), **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def wide():
    """A backbone that may be up to 1.6 wide, calibrated at every width of the test."""
    model = backbone(0.25, 1.6)
    calibrations = Calibrations(model)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for width in WIDTHS:
        calibrations.calibrate(OperatingPoint(width, 64), [images])
    return calibrations


@pytest.mark.parametrize("width", WIDTHS)
def test_equals_torchvisions_network_of_that_width(wide, torchvision_backbone, width):
    expected = torchvision_backbone(width)
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), wide.at(OperatingPoint(width, 64)):
        actual = wide.model(images)
        expected.load_state_dict(sliced(wide.model).state_dict(), strict=True)
        for name, features in expected(images).items():
            assert features.shape == actual[name].shape
            assert (features - actual[name]).abs().max() < 1e-5
            assert features.std() > 0.1  # not equal for being zero


def test_shortcuts_are_torchvisions_of_full_width(torchvision_backbone):
    expected = [
        getattr(block, "use_res_connect", None) for block in torchvision_backbone(1).features
    ]
    actual = [getattr(block, "has_shortcut", None) for block in backbone().features]
    assert actual == expected
    assert sum(filter(None, actual)) == 10


@pytest.mark.parametrize("maximum", [0.5, 1.0, 1.4])
def test_takes_torchvisions_state_dict_as_it_is(torchvision_backbone, maximum):
    model, plain = backbone(0.25, maximum), torchvision_backbone(maximum)
    model.load_state_dict(plain.state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for name, features in plain(images).items():
            torch.testing.assert_close(model(images)[name], features, rtol=0, atol=1e-5)


@pytest.mark.parametrize("maximum", [1.0, 1.6])
def test_describes_its_features(maximum):
    model = backbone(0.25, maximum)
    levels = model(torch.zeros(1, 3, 64, 96))
    shapes = model.output_shape()
    assert list(shapes) == ["res2", "res3", "res4", "res5"]
    for name, shape in shapes.items():
        assert levels[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    model.train()
    with at_width(model, 0.25):
        for name, features in model(torch.zeros(2, 3, 64, 64)).items():
            assert features.shape[1] == model.feature_channels[name].at(0.25)


def test_gives_the_features_asked_for():
    model = backbone(out_features=("res3", "res5"))
    assert list(model(torch.zeros(1, 3, 64, 64))) == list(model.output_shape()) == ["res3", "res5"]


def test_image_channels_never_slim():
    model = backbone(in_channels=4).train()
    with at_width(model, 0.25):
        model(torch.zeros(2, 4, 64, 64))
        assert model.features[0][0].plain().weight.shape == (8, 4, 3, 3)


@pytest.mark.parametrize(
    ("freeze_at", "frozen"), [(0, 0), (1, 2), (2, 4), (3, 7), (4, 14), (5, 18)]
)
def test_freeze_at_freezes_weights_scales_and_shifts_alone(freeze_at, frozen):
    model = backbone(freeze_at=freeze_at).train()
    for index, block in enumerate(model.features):
        assert {p.requires_grad for p in block.parameters()} == {index >= frozen}
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(2, 3, 64, 64))
    assert not any(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("freeze_at", [-1, 6])
def test_freeze_at_outside_its_range_is_an_error(freeze_at):
    with pytest.raises(ValueError, match=f"FREEZE_AT is {freeze_at}; expected 0 to 5"):
        backbone(freeze_at=freeze_at)


def test_is_built_from_the_config(tiny_cfg):
    tiny_cfg.MUTUALNET.WIDTH_RANGE = (0.5, 1.4)
    tiny_cfg.MODEL.BACKBONE.NAME = "build_slimmable_mobilenet_v2_backbone"
    tiny_cfg.MODEL.BACKBONE.FREEZE_AT = 1
    model = build_backbone(tiny_cfg, ShapeSpec(channels=3))
    assert (model.width.minimum, model.width.maximum) == (0.5, 1.4)
    assert not any(p.requires_grad for p in model.features[:2].parameters())
    assert all(p.requires_grad for p in model.features[2:].parameters())


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"no {FIXTURES}")
@pytest.mark.parametrize("name", ["0.25-224", "0.5-160", "0.7-160", "1.0-224"])
def test_equals_the_public_code_with_its_own_calibration(tmp_path, name):
    data = torch.load(FIXTURES / "mutualnet_mobilenet_v2_reference.pt", weights_only=True)
    path = tmp_path / "mobilenet_v2.pth"
    import_backbone(str(FIXTURES / "mutualnet_mobilenet_v2_checkpoint.pt"), str(path))
    weights = torch.load(path, weights_only=True)["model"]
    model = backbone()
    assert not model.load_state_dict(weights, strict=False).missing_keys

    width, resolution = name.split("-")
    point = OperatingPoint(float(width), int(resolution))

    def resized(images):
        size = (point.resolution, point.resolution)
        return F.interpolate(images, size=size, mode="bilinear", align_corners=True)

    calibrations = Calibrations(model)
    calibrations.calibrate(point, map(resized, data["calibration"]))
    with torch.no_grad(), calibrations.at(point):
        actual = model(resized(data["input"]))
    reference = data["reference"][name]
    for features, expected in zip(
        actual.values(), reference["stage_features"].values(), strict=True
    ):
        torch.testing.assert_close(features[..., ::4, ::4], expected, rtol=1e-4, atol=1e-4)

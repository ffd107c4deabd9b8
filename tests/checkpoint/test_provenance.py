"""What weights were trained for, against what a config wants."""

import pytest
import torch

from mutualnet_det.checkpoint import check_provenance, provenance


def test_plain_values_alone(tiny_cfg, tmp_path):
    saved = provenance(tiny_cfg)
    torch.save(saved, tmp_path / "provenance.pth")
    found = torch.load(tmp_path / "provenance.pth", weights_only=True)
    assert found == saved
    check_provenance(found, tiny_cfg, "weights.pth")


@pytest.mark.parametrize(
    "key, value, was",
    [
        ("INPUT.FORMAT", "BGR", "RGB"),
        ("MODEL.PIXEL_MEAN", [103.53, 116.28, 123.675], "[123.675, 116.28, 103.53]"),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], "[58.395, 57.12, 57.375]"),
        ("MODEL.FPN.BOTTOM_UP", "build_other", "build_slimmable_mobilenet_v2_backbone"),
        ("MUTUALNET.SCOPE", "neck", "heads"),
    ],
)
def test_what_must_be_equal(tiny_cfg, key, value, was):
    saved = provenance(tiny_cfg)
    tiny_cfg.merge_from_list([key, value])
    with pytest.raises(ValueError) as error:
        check_provenance(saved, tiny_cfg, "weights.pth")
    for text in ("weights.pth", key, str(value), was):
        assert text in str(error.value)


@pytest.mark.parametrize("bounds", [(0.25, 1.0), (0.5, 1.0), (1.0, 1.0)])
def test_width_range_inside_the_trained_one(tiny_cfg, bounds):
    saved = provenance(tiny_cfg)
    tiny_cfg.MUTUALNET.WIDTH_RANGE = bounds
    check_provenance(saved, tiny_cfg, "weights.pth")


@pytest.mark.parametrize("bounds", [(0.2, 1.0), (0.25, 0.9), (0.25, 1.25)])
def test_other_width_range(tiny_cfg, bounds):
    saved = provenance(tiny_cfg)
    tiny_cfg.MUTUALNET.WIDTH_RANGE = bounds
    with pytest.raises(ValueError) as error:
        check_provenance(saved, tiny_cfg, "weights.pth")
    for text in ("weights.pth", "MUTUALNET.WIDTH_RANGE", "0.25", "1.0", str(bounds[1])):
        assert text in str(error.value)


def test_resolutions_may_differ(tiny_cfg):
    saved = provenance(tiny_cfg)
    assert saved["resolutions"] == [64, 48, 32]
    tiny_cfg.MUTUALNET.RESOLUTIONS = (320, 160)
    check_provenance(saved, tiny_cfg, "weights.pth")


def test_files_of_others_say_nothing(tiny_cfg):
    check_provenance({}, tiny_cfg, "weights.pth")

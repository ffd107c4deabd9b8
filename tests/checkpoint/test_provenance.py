"""What weights were trained for, against what a config wants."""

from pathlib import Path

import pytest
import torch

from mutualnet_det import load_config
from mutualnet_det.checkpoint import check_provenance, provenance

CONFIGS = Path(__file__).parents[2] / "configs"


def test_plain_values_alone(tiny_cfg, tmp_path):
    saved = provenance(tiny_cfg)
    torch.save(saved, tmp_path / "provenance.pth")
    checkpoint = torch.load(tmp_path / "provenance.pth", weights_only=True)
    assert checkpoint == saved
    check_provenance(checkpoint, tiny_cfg, "weights.pth")


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


def classification(cfg):
    cfg.MODEL.META_ARCHITECTURE = "MutualClassifier"
    cfg.MODEL.BACKBONE.NAME = cfg.MODEL.FPN.BOTTOM_UP
    cfg.MODEL.BACKBONE.NUM_CLASSES = 5
    return cfg


def test_classifiers_say_their_backbone_and_no_scope(tiny_cfg):
    saved = provenance(classification(tiny_cfg))
    assert saved["architecture"] == {"MODEL.BACKBONE.NAME": "build_slimmable_mobilenet_v2_backbone"}


def test_backbone_of_a_classifier_against_a_detector(tiny_cfg):
    saved = provenance(classification(tiny_cfg.clone()))
    tiny_cfg.MUTUALNET.SCOPE = "neck"
    check_provenance(saved, tiny_cfg, "weights.pth")
    tiny_cfg.MODEL.FPN.BOTTOM_UP = "build_slimmable_resnet_backbone"
    with pytest.raises(ValueError, match="weights.pth .*BOTTOM_UP build_.*_mobilenet_v2_backbone"):
        check_provenance(saved, tiny_cfg, "weights.pth")


def test_depth_of_a_resnet(tiny_cfg):
    tiny_cfg.MODEL.FPN.BOTTOM_UP = "build_slimmable_resnet_backbone"
    saved = provenance(tiny_cfg)
    tiny_cfg.MODEL.RESNETS.DEPTH = 101
    with pytest.raises(ValueError, match="MODEL.RESNETS.DEPTH 50, the config has 101"):
        check_provenance(saved, tiny_cfg, "weights.pth")


def test_untrained_widths_may_be_allowed(tiny_cfg, caplog):
    saved = provenance(tiny_cfg)
    tiny_cfg.MUTUALNET.WIDTH_RANGE = (0.125, 1.0)
    with pytest.raises(ValueError, match="MUTUALNET.ALLOW_UNTRAINED_WIDTHS True"):
        check_provenance(saved, tiny_cfg, "weights.pth")
    tiny_cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = True
    check_provenance(saved, tiny_cfg, "weights.pth")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    for text in ("weights.pth", "0.25 to 1.0", "(0.125, 1.0)", "below 0.25 start untrained"):
        assert text in record.getMessage()
    # The largest width is a matter of shapes.
    tiny_cfg.MUTUALNET.WIDTH_RANGE = (0.125, 1.25)
    with pytest.raises(ValueError, match="largest width must be the same"):
        check_provenance(saved, tiny_cfg, "weights.pth")


def test_files_of_others_say_nothing(tiny_cfg):
    check_provenance({}, tiny_cfg, "weights.pth")


def test_what_a_method_does_not_train_is_not_claimed(tiny_cfg):
    tiny_cfg.MUTUALNET.METHOD = "us_net"
    assert provenance(tiny_cfg)["resolutions"] == [64]
    assert provenance(tiny_cfg)["width_range"] == [0.25, 1.0]
    tiny_cfg.MUTUALNET.METHOD = "independent"
    alone = provenance(tiny_cfg)
    assert alone["resolutions"] == [64] and alone["width_range"] == [1.0, 1.0]
    tiny_cfg.MUTUALNET.METHOD = "independent_multi_scale"
    assert provenance(tiny_cfg) == {**alone, "resolutions": [64, 48, 32]}
    check_provenance(alone, tiny_cfg, "weights.pth")
    tiny_cfg.MUTUALNET.METHOD = "mutual"
    with pytest.raises(ValueError, match=r"weights.pth was trained at width 1.0 alone"):
        check_provenance(alone, tiny_cfg, "weights.pth")


def fits(pretraining, cfg):
    try:
        check_provenance(provenance(pretraining), cfg, "weights.pth")
    except ValueError:
        return False
    return "imagenet_train" in pretraining.DATASETS.TRAIN


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("mutual_*.yaml")), ids=lambda path: path.stem)
def test_every_detector_has_a_pretraining_at_all_of_its_widths(path):
    cfg = load_config(str(path))
    assert not cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS
    assert any(fits(load_config(str(x)), cfg) for x in CONFIGS.glob("pretrain_*.yaml"))

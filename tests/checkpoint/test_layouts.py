"""Layouts: their names against those that the code bases themselves give."""

import pytest
import timm
import torch
import torchvision.models
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone

from mutualnet_det.checkpoint import CheckpointError
from mutualnet_det.checkpoint.layouts import CAFFE2, DETECTRON2, LAYOUTS, recognise


def layout_of(text):
    (layout,) = [layout for layout in LAYOUTS if str(layout) == text]
    return layout


def names_of(build):
    with torch.device("meta"):
        return set(build().state_dict())


@pytest.mark.parametrize(
    "text, build",
    [
        ("MobileNetV2 of torchvision", torchvision.models.mobilenet_v2),
        ("ResNet-50 of torchvision", torchvision.models.resnet50),
        ("ResNet-101 of torchvision", torchvision.models.resnet101),
        ("ResNet-152 of torchvision", torchvision.models.resnet152),
        ("VGG-16-BN of torchvision", torchvision.models.vgg16_bn),
        ("MobileNetV2 of timm", lambda: timm.create_model("mobilenetv2_100")),
        ("VGG-16-BN of timm", lambda: timm.create_model("vgg16_bn")),
        # timm's ResNets cannot be told from torchvision's, and need not be.
        ("ResNet-50 of torchvision", lambda: timm.create_model("resnet50")),
        ("ResNet-101 of torchvision", lambda: timm.create_model("resnet101")),
        ("ResNet-152 of torchvision", lambda: timm.create_model("resnet152")),
    ],
)
def test_names_are_the_code_bases_own(text, build):
    names = names_of(build)
    assert set(layout_of(text).names.values()) == names
    assert str(recognise(names, "a.pth")) == text


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_names_of_detectron2(depth):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    names = names_of(lambda: build_resnet_backbone(cfg, ShapeSpec(channels=3)))
    # Its default gives res4 alone, and no stage behind.
    layout = layout_of(f"ResNet-{depth} of {DETECTRON2}")
    rest = set(layout.backbone_names.values()) - names
    assert names < set(layout.names.values())
    assert {name.split(".")[0] for name in rest} == {"res5"}


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_names_of_caffe2_are_those_detectron2_converts(depth):
    caffe2 = layout_of(f"ResNet-{depth} of {CAFFE2}")
    detectron2 = layout_of(f"ResNet-{depth} of {DETECTRON2}")
    keys = [key for key in caffe2.backbone_names if not key.endswith("num_batches_tracked")]
    converted, _ = convert_c2_detectron_names({caffe2.names[key]: key for key in keys})
    assert {key: name for name, key in converted.items()} == {
        key: detectron2.names[key] for key in keys
    }


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_names_are_told_apart(layout):
    assert len(set(layout.names.values())) == len(layout.names)
    assert recognise(layout.names.values(), "a.pth") is layout
    # Up to the classifier timm's VGG is torchvision's.
    expected = "VGG-16-BN of torchvision" if str(layout) == "VGG-16-BN of timm" else str(layout)
    assert str(recognise(layout.backbone_names.values(), "a.pth")) == expected
    assert str(recognise(layout.required, "a.pth")) == expected


def test_refusal_names_the_nearest():
    names = list(layout_of("ResNet-101 of torchvision").names.values())
    names.remove("layer3.5.bn1.weight")
    with pytest.raises(CheckpointError) as error:
        recognise([*names, "layer3.23.conv1.weight", "neck.weight"], "a.pth")
    for text in (
        "a.pth is in no known layout. The nearest is ResNet-101 of torchvision, of ",
        "missing 1: layer3.5.bn1.weight",
        "unknown 2: layer3.23.conv1.weight, neck.weight",
        "MobileNetV1 of the public MutualNet and US-Net code",
    ):
        assert text in str(error.value)

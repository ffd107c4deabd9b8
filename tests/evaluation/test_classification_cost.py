"""Classification costs: the published query tables and torchvision's figures come out."""

import pytest
import torch
from torchvision import models

from mutualnet_det.evaluation.classification_cost import count_classification_cost
from mutualnet_det.modeling.backbones import VGG16, MobileNetV1, MobileNetV2, ResNet, WideResNet
from mutualnet_det.slimmable import OperatingPoint, Width, at_width

# arXiv 1909.12978's query tables: MFLOPs by width and resolution.
MOBILENET_V1 = """
569: 1.0-224, 518: 0.95-224, 466: 0.9-224, 418: 1.0-192, 380: 0.95-192, 342: 0.9-192, 309: 0.85-192,
269: 0.8-192, 239: 0.75-192, 215: 0.85-160, 187: 0.8-160, 166: 0.75-160, 146: 0.7-160,
127: 0.65-160, 111: 0.6-160, 76: 0.5-160, 63: 0.45-160, 41: 0.35-160, 30: 0.25-192, 21: 0.25-160,
13: 0.25-128
"""
MOBILENET_V2 = """
300: 1.0-224, 284: 0.95-224, 269: 0.9-224, 254: 0.85-224, 221: 1.0-192, 209: 0.95-192, 198: 0.9-192,
187: 0.85-192, 164: 0.8-192, 154: 0.75-192, 128: 0.7-192, 107: 0.75-160, 89: 0.7-160, 84: 0.85-128,
57: 0.7-128
"""


def network(build, *width, **options):
    return build(Width(*width), num_classes=1000, out_features=["logits"], **options)


@pytest.mark.parametrize(
    ("build", "table", "size"), [(MobileNetV1, MOBILENET_V1, 21), (MobileNetV2, MOBILENET_V2, 15)]
)
def test_published_figures(build, table, size):
    model = network(build)
    rows = [row.split(": ") for row in table.strip().replace("\n", " ").split(", ")]
    assert len(rows) == size
    for mflops, point in rows:
        width, resolution = point.split("-")
        cost = count_classification_cost(model, OperatingPoint(float(width), int(resolution)))
        assert abs(cost.mflops - float(mflops)) < 1, point


@pytest.mark.parametrize(
    ("build", "options", "weights"),
    [
        (MobileNetV2, {}, models.MobileNet_V2_Weights.IMAGENET1K_V1),
        (ResNet, {}, models.ResNet50_Weights.IMAGENET1K_V1),
        (ResNet, {"depth": 152}, models.ResNet152_Weights.IMAGENET1K_V1),
        (VGG16, {}, models.VGG16_BN_Weights.IMAGENET1K_V1),
    ],
)
def test_torchvisions_figures(build, options, weights):
    cost = count_classification_cost(network(build, **options), OperatingPoint(1.0, 224))
    assert cost.mflops == pytest.approx(weights.meta["_ops"] * 1000, abs=1)  # given to a MFLOP
    assert cost.parameters == weights.meta["num_params"]


def test_parameters_are_the_active_ones():
    wide, narrow = network(MobileNetV1, 0.25, 1.0), network(MobileNetV1, 0.25, 0.25)
    cost = count_classification_cost(wide, OperatingPoint(0.25, 128))
    assert cost.parameters == sum(p.numel() for p in narrow.parameters())
    assert cost == count_classification_cost(narrow, OperatingPoint(0.25, 128))


def test_leaves_the_network_as_it_was():
    model = WideResNet(Width(0.25, 0.5), num_classes=10).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with at_width(model, 0.25):
        count_classification_cost(model, OperatingPoint(0.5, 32))
        assert model.width.value == 0.25
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())

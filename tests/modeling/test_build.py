"""Building a network from a config."""

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from mutualnet_det import load_config
from mutualnet_det.modeling.build import build_network
from mutualnet_det.modeling.memory_format import memory_format
from mutualnet_det.slimmable import SlimmableBatchNorm2d, SlimmableGroupNorm


def test_layout_changes_and_values_do_not(tiny_cfg):
    torch.manual_seed(0)
    plain = build_model(tiny_cfg)
    torch.manual_seed(0)
    network = build_network(tiny_cfg)
    assert type(network) is type(plain)
    stem = network.backbone.bottom_up.features[0][0].weight
    assert stem.is_contiguous(memory_format=torch.channels_last) and not stem.is_contiguous()
    for (name, value), (_, expected) in zip(
        network.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert torch.equal(value, expected), name
    images = torch.randn(1, 3, 64, 64)
    features = network.eval().backbone(images)
    assert features["p2"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("device", "dtype", "norm", "expected"),
    [
        ("cpu", torch.float32, "BN", torch.channels_last),
        ("cpu", torch.bfloat16, "GN", torch.channels_last),
        ("cuda", torch.float32, "BN", torch.contiguous_format),
        ("cuda", torch.bfloat16, "BN", torch.channels_last),
        ("cuda", torch.float16, "GN", torch.contiguous_format),
    ],
)
def test_layout_follows_device_precision_and_norm(device, dtype, norm, expected):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8) if norm == "GN" else nn.BatchNorm2d(8)
    )
    assert memory_format(network, torch.device(device), dtype) == expected


def norms(model):
    kinds = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
    return {name: type(m) for name, m in model.named_modules() if isinstance(m, kinds)}


@pytest.mark.parametrize("build", [build_model, build_network])
@pytest.mark.parametrize(
    "config, overrides",
    [
        ("quickstart_shapes", ["MODEL.ROI_MASK_HEAD.NORM", "BN"]),
        ("mutual_panoptic_fpn_mbv2", []),
        ("mutual_semantic_fpn_mbv2", []),
        ("mutual_retinanet_mbv2", ["MODEL.FPN.NORM", "BN"]),
        ("pretrain_shapes", []),
        (
            "mutual_retinanet_mbv2",
            [
                *("MODEL.BACKBONE.NAME", "build_slimmable_mobilenet_v2_backbone"),
                *("MUTUALNET.SCOPE", "backbone", "MODEL.RETINANET.IN_FEATURES", "['res4']"),
                *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32]]"),
            ],
        ),
        # Detectron2's own model, on the slimmable backbone.
        (
            "mutual_fasterrcnn_mbv2",
            ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "MUTUALNET.SCOPE", "backbone"],
        ),
    ],
)
def test_every_norm_is_the_one_asked_for(request, build, config, overrides):
    config = str(request.config.rootpath / f"configs/{config}.yaml")
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", "32", *overrides]
    network = build(load_config(config, overrides))
    grouped = build(load_config(config, [*overrides, "MUTUALNET.NORM", "GN"]))
    assert set(norms(network).values()) == {SlimmableBatchNorm2d}
    assert norms(grouped) == dict.fromkeys(norms(network), SlimmableGroupNorm)
    trained = {name: p.requires_grad for name, p in network.named_parameters()}
    assert {name: p.requires_grad for name, p in grouped.named_parameters()} == trained

"""Building a network from a config."""

import torch
from detectron2.modeling import build_model

from mutualnet_det.modeling.build import build_network


def test_layout_changes_and_values_do_not(tiny_cfg):
    torch.manual_seed(0)
    plain = build_model(tiny_cfg)
    torch.manual_seed(0)
    found = build_network(tiny_cfg)
    assert type(found) is type(plain)
    stem = found.backbone.bottom_up.features[0][0].weight
    assert stem.is_contiguous(memory_format=torch.channels_last) and not stem.is_contiguous()
    for (name, value), (_, expected) in zip(
        found.state_dict().items(), plain.state_dict().items(), strict=True
    ):
        assert torch.equal(value, expected), name
    images = torch.randn(1, 3, 64, 64)
    features = found.eval().backbone(images)
    assert features["p2"].is_contiguous(memory_format=torch.channels_last)

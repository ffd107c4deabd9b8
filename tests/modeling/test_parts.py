"""What is around the backbone: images on their way to it, normalisation behind it."""

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, build_model

from mutualnet_det.modeling.parts import has_norms_behind_backbone, normalised_batch


def test_a_batch_is_detectron2s(tiny_cfg):
    model = build_model(tiny_cfg)
    images = [{"image": torch.rand(3, *size) * 255} for size in ((64, 96), (50, 70))]
    expected = GeneralizedRCNN.preprocess_image(model, images)
    actual = normalised_batch(model, images)
    assert torch.equal(actual.tensor, expected.tensor)
    assert actual.image_sizes == expected.image_sizes == [(64, 96), (50, 70)]


@pytest.mark.parametrize("norm", ["", "BN"])
def test_norms_behind_the_backbone(tiny_cfg, norm):
    tiny_cfg.MODEL.FPN.NORM = "BN"  # the pyramid belongs to the backbone
    tiny_cfg.MODEL.ROI_MASK_HEAD.NORM = norm
    assert has_norms_behind_backbone(build_model(tiny_cfg)) == bool(norm)

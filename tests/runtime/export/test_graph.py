"""The graph of tensors, against Detectron2's own inference, where objects lie on several levels."""

import numpy as np
import torch

from mutualnet_det.runtime.export.graph import DetectorGraph, TorchNMS
from mutualnet_det.runtime.export.onnx import OnnxNMS
from mutualnet_det.runtime.export.plain import plain_network
from mutualnet_det.slimmable import OperatingPoint

HALF = OperatingPoint(0.5, 48)
OVERRIDES = (
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [64], [128], [192], [288]]),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.01, "MODEL.RPN.PRE_NMS_TOPK_TEST", 40),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 200, "TEST.DETECTIONS_PER_IMAGE", 200),
)


def test_objects_on_several_levels(make_model, source_finds):
    model = make_model(*OVERRIDES, points=(HALF,))
    plain = plain_network(model, HALF)
    random = np.random.default_rng(0)
    images = [
        torch.from_numpy(random.integers(0, 256, (3, *size), dtype=np.uint8))
        for size in ((300, 400), (260, 200))
    ]
    expected = source_finds(model, HALF, images)
    boxes = torch.cat([x.pred_boxes.tensor for x in expected])
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    # Level k takes sides from 224 * 2^(k - 4) (arXiv 1612.03144, equation 1).
    assert (sides < 112).any() and ((sides > 112) & (sides < 224)).any() and (sides > 224).any()
    for nms in (TorchNMS(), OnnxNMS()):
        batches = [images] if isinstance(nms, TorchNMS) else []
        graph = DetectorGraph(plain, nms).eval()
        for batch in [*batches, images[:1]]:
            with torch.no_grad():
                actual = graph(batch)
            for own, each in zip(source_finds(model, HALF, batch), actual, strict=True):
                assert len(own) > 20
                close = {"rtol": 0, "atol": 1e-3}
                torch.testing.assert_close(each["boxes"], own.pred_boxes.tensor, **close)
                torch.testing.assert_close(each["scores"], own.scores, **close)
                assert torch.equal(each["classes"], own.pred_classes)
                torch.testing.assert_close(each["masks"], own.pred_masks[:, 0], **close)

"""What a program does around an exported network, against Detectron2's own functions."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers.mask_ops import paste_masks_in_image

from mutualnet_det.runtime.export.host import paste, resized


@pytest.mark.parametrize(("short", "longest"), [(64, 128), (600, 1000), (37, 53)])
def test_resized_as_detectron2_resizes(short, longest):
    random = np.random.default_rng(0)
    for width, height in [(640, 480), (480, 640), (500, 500), *random.integers(30, 900, (500, 2))]:
        expected = ResizeShortestEdge.get_output_shape(height, width, short, longest)
        assert resized(int(width), int(height), short, longest) == expected[::-1]


def test_no_side_vanishes():
    assert resized(1, 30_000, 64, 128) == (1, 128)


def test_pasted_as_detectron2_pastes():
    random = np.random.default_rng(0)
    for size in [(28, 28), (14, 14)]:
        masks = random.random((20, *size), dtype=np.float32)
        corner = random.uniform(-5, 60, (20, 2))
        boxes = np.concatenate([corner, corner + random.uniform(0.5, 60, (20, 2))], axis=1)
        boxes = boxes.astype(np.float32)
        expected = paste_masks_in_image(
            torch.from_numpy(masks), torch.from_numpy(boxes), (70, 90), threshold=0.5
        )
        pairs = zip(masks, boxes, strict=True)
        actual = np.stack([paste(*pair, width=90, height=70) for pair in pairs])
        assert expected.any() and (actual != expected.numpy()).mean() < 1e-4

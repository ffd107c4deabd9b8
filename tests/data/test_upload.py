"""A training batch on its device: the same batch, in one copy."""

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks

from mutualnet_det.data.upload import uploaded


@pytest.fixture
def batch():
    """Two inputs of other sizes, with everything that they may hold."""
    inputs = []
    for number, (height, width) in enumerate(((5, 7), (3, 3))):
        objects = Instances((height, width))
        objects.gt_boxes = Boxes(torch.rand(number + 1, 4))
        objects.gt_classes = torch.arange(number + 1)
        objects.gt_masks = BitMasks(torch.rand(number + 1, height, width) > 0.5)
        objects.gt_keypoints = Keypoints(torch.rand(number + 1, 5, 3))
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        labels = torch.randint(0, 9, (height, width))
        about = {"file_name": f"{number}.png", "height": height, "skipped": []}
        inputs.append({"image": image, "sem_seg": labels, "instances": objects, **about})
    return inputs


def test_nothing_is_changed(batch):
    moved = uploaded(batch, torch.device("cpu"))
    for item, other in zip(batch, moved, strict=True):
        assert item.keys() == other.keys() and item["file_name"] == other["file_name"]
        for key in ("image", "sem_seg"):
            assert other[key].dtype == item[key].dtype
            torch.testing.assert_close(other[key], item[key], rtol=0, atol=0)
        objects, others = item["instances"], other["instances"]
        assert others.image_size == objects.image_size
        assert torch.equal(others.gt_boxes.tensor, objects.gt_boxes.tensor)
        assert torch.equal(others.gt_classes, objects.gt_classes)
        assert torch.equal(others.gt_masks.tensor, objects.gt_masks.tensor)
        assert torch.equal(others.gt_keypoints.tensor, objects.gt_keypoints.tensor)


def test_all_tensors_share_one_copy(batch):
    moved = uploaded(batch, torch.device("cpu"))
    objects = moved[1]["instances"]
    tensors = (moved[0]["image"], moved[1]["sem_seg"], objects.gt_boxes.tensor, objects.gt_classes)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    assert all(tensor.is_contiguous() for tensor in tensors)


def test_what_is_not_in_order_and_what_is_empty(batch):
    batch[0]["image"] = batch[0]["image"].flip(2).permute(0, 2, 1)
    batch[1]["instances"] = batch[1]["instances"][torch.zeros(2, dtype=torch.bool)]
    first, second = uploaded(batch, torch.device("cpu"))
    assert torch.equal(first["image"], batch[0]["image"])
    assert len(second["instances"]) == 0
    assert second["instances"].gt_boxes.tensor.shape == (0, 4)


def test_polygons_stay(batch):
    masks = PolygonMasks([[torch.tensor([0.0, 0, 2, 0, 2, 2]).numpy()]])
    batch[0]["instances"].gt_masks = masks
    assert uploaded(batch, torch.device("cpu"))[0]["instances"].gt_masks is masks


def test_it_goes_to_the_device(batch):
    item = uploaded(batch, torch.device("meta"))[0]
    assert item["image"].is_meta and item["instances"].gt_boxes.tensor.is_meta

"""Panoptic ground truth of the generated data sets."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from mutualnet_det.data.shapes.panoptic import panoptic_records
from mutualnet_det.data.shapes.semantic import semantic_records


@pytest.fixture
def records(tiny_shapes, tmp_path):
    _, json_file, image_root = tiny_shapes
    yield panoptic_records("tiny_panoptic", json_file, image_root, str(tmp_path / "stuff"))
    MetadataCatalog.remove("tiny_panoptic")


def test_background_is_what_no_object_covers(records):
    assert len(records) == 12
    for record in records:
        mask = np.array(Image.open(record["sem_seg_file_name"]))
        size = record["height"], record["width"]
        covered = np.zeros(size, bool)
        for annotation in record["annotations"]:
            rles = mask_util.frPyObjects(annotation["segmentation"], *size)
            covered |= mask_util.decode(mask_util.merge(rles)) > 0
        assert covered.any() and not covered.all()
        assert np.array_equal(mask, (~covered).astype(np.uint8))


def test_detectron2s_mapper_reads_both(records, tiny_cfg):
    mapped = DatasetMapper(tiny_cfg, is_train=True)(records[0])
    assert mapped["sem_seg"].shape == mapped["image"].shape[1:]
    assert set(mapped["sem_seg"].unique().tolist()) == {0, 1}
    assert len(mapped["instances"]) == len(records[0]["annotations"])


def test_masks_of_classes_are_not_taken_for_them(records, tiny_shapes, tmp_path):
    _, json_file, image_root = tiny_shapes
    semantic_records(json_file, image_root, str(tmp_path / "stuff"))
    again = panoptic_records("tiny_panoptic", json_file, image_root, str(tmp_path / "stuff"))
    for record in again:
        assert np.array(Image.open(record["sem_seg_file_name"])).max() == 1


def test_registered_with_the_package():
    for split in ("shapes_panoptic_train", "shapes_hard_panoptic_val"):
        assert split in DatasetCatalog.list()
        metadata = MetadataCatalog.get(split)
        assert metadata.stuff_classes == ["things", "background"]
        assert len(metadata.thing_classes) in (3, 6)

"""Reading and resizing images as Detectron2 does, with errors that name the file."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from PIL import Image

from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.images import read_record, resize_shortest_edge
from mutualnet_det.data.pixels import check_file


@pytest.fixture
def record(tmp_path):
    """An image of 40 x 90 px on disk."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    path = tmp_path / "noise.png"
    Image.fromarray(pixels).save(path)
    return {"file_name": str(path), "height": 40, "width": 90}


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("resolution", [24, 64])  # 64: the long side is too long
def test_equals_detectron2s_test_mapper(record, image_format, resolution):
    mapper = DatasetMapper(
        is_train=False,
        augmentations=[T.ResizeShortestEdge(resolution, 100)],
        image_format=image_format,
    )
    resized = resize_shortest_edge(read_record(record, image_format), resolution, 100)
    expected = mapper(dict(record))["image"]
    assert resized.dtype == expected.dtype and torch.equal(resized, expected)


def test_a_record_without_a_size_stays_without(record):
    bare = {"file_name": record["file_name"]}
    assert read_record(bare, "RGB").shape == (40, 90, 3)
    assert set(bare) == {"file_name"}


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32])
def test_pixels_of_more_than_8_bits_are_not_clipped(tmp_path, kind):
    path = str(tmp_path / "deep.tif")
    Image.fromarray(np.full((40, 90), 300, kind)).save(path)
    with pytest.raises(DatasetError, match=r"deep\.tif cannot be used: pixels of more than 8 bits"):
        read_record({"file_name": path, "height": 40, "width": 90}, "RGB")


def test_jpeg_files_are_not_opened_for_it():
    check_file("nowhere.JPG")
    with pytest.raises(FileNotFoundError):
        check_file("nowhere.png")


@pytest.mark.parametrize(
    "change", [{"height": 41}, {"width": 40, "height": 90}, {"file_name": "nowhere.png"}]
)
def test_what_cannot_be_used_is_named(record, change):
    record |= change
    with pytest.raises(DatasetError, match=f"^The image {record['file_name']} cannot be used: "):
        read_record(record, "RGB")

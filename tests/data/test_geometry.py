"""Boxes and masks that cannot be meant, that cannot be found, and that are only unlikely."""

import copy
import json
import logging
import random
import re
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mutualnet_det.data.coco import check_coco_format, renumbered_ground_truth
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.geometry import check_geometry, covers_a_pixel, is_rle

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def square(x, y, side):
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def content(count=24):
    """Images of 160 x 200 px with squares of 20 to 40 px in them."""
    rng = random.Random(0)
    annotations = []
    for index in range(count):
        side = rng.randint(20, 40)
        x, y = rng.randint(0, 160 - side), rng.randint(0, 200 - side)
        annotations.append(
            {
                "id": index + 1,
                "image_id": index % 4 + 1,
                "category_id": 1,
                "bbox": [x, y, side, side],
                "segmentation": [square(x, y, side)],
                "iscrowd": 0,
            }
        )
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 160, "height": 200} for i in range(1, 5)
        ],
        "categories": [{"id": 1, "name": "box"}],
        "annotations": annotations,
    }


def each(data, change, part=1.0):
    """The data with ``change(annotation)`` made to the first part of the annotations."""
    data = copy.deepcopy(data)
    for annotation in data["annotations"][: round(part * len(data["annotations"]))]:
        change(annotation)
    return data


@pytest.fixture
def check(tmp_path):
    """Checks a data set, without its images; by default bad records are an error."""

    def check(data, bad_records="error", need_masks=True):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(data))
        return check_coco_format(str(path), None, need_masks=need_masks, bad_records=bad_records)

    return check


def normalise(a):
    x, y, w, h = a["bbox"]
    a["bbox"] = [x / 160, y / 200, w / 160, h / 200]
    a["segmentation"] = [[v / (200 if i % 2 else 160) for i, v in enumerate(a["segmentation"][0])]]


def normalise_middle(a):
    x, y, w, h = a["bbox"]
    a["bbox"], a["segmentation"] = [(x + w / 2) / 160, (y + h / 2) / 200, w / 160, h / 200], []


def normalise_box(a):
    x, y, w, h = a["bbox"]
    a["bbox"] = [x / 160, y / 200, w / 160, h / 200]


def normalise_mask(a):
    a["segmentation"] = [[v / 200 for v in a["segmentation"][0]]]


def as_corners(a):
    x, y, w, h = a["bbox"]
    a["bbox"] = [x, y, x + w, y + h]


def as_corners_without_masks(a):
    as_corners(a)
    a["segmentation"] = []


def as_middle(a):
    x, y, w, h = a["bbox"]
    a["bbox"] = [x + w / 2, y + h / 2, w, h]


def swap(a):
    x, y, w, h = a["bbox"]
    a["bbox"] = [y, x, h, w]


def enlarge(a):
    """As if the image had been reduced, and the annotation not."""
    a["bbox"] = [3 * v for v in a["bbox"]]
    a["segmentation"] = [[3 * v for v in a["segmentation"][0]]]


WITHOUT_MASKS = (normalise_middle, as_corners_without_masks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (normalise, r"24 of 24 boxes lie between 0 and 1 .*multiply x and width"),
        (normalise_middle, r"24 of 24 boxes lie between 0 and 1"),
        (normalise_box, r"24 of 24 boxes lie between 0 and 1"),
        (normalise_mask, r"24 of 24 boxes are away from their masks"),
        (as_corners, r"\d+ of 24 boxes leave their image .*\[left, top, right, bottom\].*subtract"),
        (as_corners_without_masks, r"boxes leave their image .*\[left, top, right, bottom\]"),
        (as_middle, r"away from their masks .*Read as \[middle x, middle y, width, height\], 24"),
        (swap, r"away from their masks .*Read as \[y, x, height, width\]"),
        (enlarge, r"leave their image .*resized, or cut"),
    ],
)
@pytest.mark.parametrize("bad_records", ["error", "skip"])
def test_what_cannot_be_meant_is_an_error(change, message, bad_records, check):
    with pytest.raises(DatasetError, match=message) as error:
        check(each(content(), change), bad_records, need_masks=change not in WITHOUT_MASKS)
    assert "instances.json" in str(error.value)


@pytest.mark.parametrize(
    ("change", "part", "message"),
    [
        (normalise_box, 0.2, "5 of 24 boxes lie between 0 and 1"),
        (as_middle, 0.2, r"5 of 24 boxes are away from their masks \(annotation 1: \["),
        (lambda a: a.update(bbox=[130, 150, 40, 40], segmentation=[square(130, 150, 40)]), 0.2,
         "5 of 24 boxes have more than a tenth of their area outside"),
    ],
)  # fmt: skip
def test_what_is_unlikely_is_one_line_with_counts(change, part, message, check, caplog):
    with caplog.at_level(logging.WARNING):
        checked = check(each(content(), change, part))
    assert not checked.is_changed
    assert len(caplog.records) == 1 and "unlikely, and used as it is" in caplog.text
    assert any(re.search(message, note) for note in checked.notes)


def test_percent_are_unlikely(check):
    def shrink(a):
        a["bbox"] = [v / 2 for v in a["bbox"]]
        a["segmentation"] = [[v / 2 for v in a["segmentation"][0]]]

    data = each(content(), shrink)
    assert check(data).notes == []  # sides of 160 px: it may be
    for image in data["images"]:
        image["width"], image["height"] = 1600, 1200
    (note,) = check(data).notes
    assert note.startswith("all 24 boxes lie within the first 100 px") and "percent" in note


def test_what_is_sound_says_nothing(check, caplog):
    data = content()
    data["annotations"][0]["bbox"] = [-2, -1, 30, 30]  # rounded, or drawn a little over the edge
    data["annotations"][0]["segmentation"] = [square(-2, -1, 30)]
    with caplog.at_level(logging.WARNING):
        checked = check(data)
    assert not checked.notes and not checked.is_changed and not caplog.records
    assert check_geometry("x.json", {**data, "annotations": []}) == []


# What nobody can find ----------------------------------------------------------------------------


def without_area(x, y):
    return [
        [[x, y] * 3],  # a point
        [[x, y, x + 20, y, x + 40, y]],  # a level line
        [[x, y, x + 20, y + 20, x + 10, y + 10]],  # a line at a slant
        [[x, y, x + 20, y, x + 20, y + 20, x + 20, y]],  # there and back
        [[x + 300, y, x + 320, y, x + 320, y + 20]],  # outside
        {"size": [200, 160], "counts": [200 * 160]},
    ]


@pytest.mark.parametrize("kind", range(6))
def test_masks_without_area(kind, check):
    data = content()
    box = [30, 40, 20, 20]
    data["annotations"][3].update(bbox=box, segmentation=without_area(30, 40)[kind])
    with pytest.raises(DatasetError, match=r"masks that cover no pixel .*: 1 \(annotation 4 of"):
        check(data)
    kept = check(data, "skip").data["annotations"]
    assert [a["id"] for a in kept] == [1, 2, 3, *range(5, 25)]
    assert not check(data, need_masks=False).is_changed  # where masks are not used


@pytest.mark.parametrize(
    "masks",
    [
        [[0, 0, 10, 10, 10, 0, 0, 10]],  # its halves cancel out in a signed area
        [[5, 5] * 3, square(20, 20, 5)],
        [square(-10, -10, 12)],
        [[0.0, 0.0, 1.5, 0.0, 1.5, 1.5, 0.0, 1.5]],
    ],
)
def test_masks_that_are_small_or_odd(masks):
    assert covers_a_pixel(masks, 200, 160)


@pytest.mark.parametrize("box", [[-452, 53, 70, 70], [1011.8, 7, 42, 42], [160, 0, 9, 9],
                                 [0, 200, 9, 9], [10, -9, 9, 9]])  # fmt: skip
@pytest.mark.parametrize("crowd", [0, 1])
def test_objects_outside_their_image_are_neither_learned_nor_scored(box, crowd, check, tmp_path):
    data = content()
    mask = [square(box[0], box[1], box[2])]
    data["annotations"][3].update(bbox=box, segmentation=mask, iscrowd=crowd)
    for need_masks in (True, False):
        with pytest.raises(DatasetError, match=r"boxes outside their image.*: 1 \(annotation 4"):
            check(data, need_masks=need_masks)
        kept = check(data, "skip", need_masks=need_masks)
        truth = renumbered_ground_truth(str(tmp_path / "instances.json"), need_masks=need_masks)
        assert len(kept.data["annotations"]) == len(truth["annotations"]) == 23
    assert kept.bad.objects == {1: 1}


def test_compressed_run_lengths_are_checked():
    rng = np.random.default_rng(0)
    for size in ([1, 1], [40, 60], [200, 160], [1000, 700]):
        for density in (0, 0.01, 0.5, 1):
            mask = np.asfortranarray(rng.random(size) < density, np.uint8)
            rle = mask_util.encode(mask)
            counts = rle["counts"].decode()
            assert is_rle({"size": size, "counts": counts}, size)
            for broken in (counts[:-1], counts + "1", counts + "AA", "", "garbage", "\u00e9"):
                assert not is_rle({"size": size, "counts": broken}, size)


def test_most_objects_far_outside_are_left_out_all_the_same(check):
    def move(a):
        a["bbox"][0] += 1000
        a["segmentation"] = [square(a["bbox"][0], a["bbox"][1], a["bbox"][2])]

    data = each(content(), move, 0.75)
    with pytest.raises(DatasetError, match="boxes outside their image.*: 18"):
        check(data)
    assert len(check(data, "skip").data["annotations"]) == 6


# Real data ---------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")
@pytest.mark.parametrize(
    ("name", "masks", "count"),
    [
        ("facade/annotations/instances_train.json", True, 12624),
        ("facade/annotations/instances_val.json", True, 2737),
        ("coco_mini/annotations/instances_train2017.json", True, 739),
        ("coco_mini/annotations/instances_val2017.json", True, 624),
        ("blood_cells/annotations/instances_train.json", False, 4947),
    ],
)
def test_no_false_alarm_on_real_data(name, masks, count):
    checked = check_coco_format(str(SHARED / name), None, need_masks=masks, bad_records="error")
    assert checked.notes == [] and not checked.is_changed
    assert len(checked.data["annotations"]) == count

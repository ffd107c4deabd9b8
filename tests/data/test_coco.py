"""COCO-format data sets: what is declared, what is wrong with it, and what is loaded and scored."""

import contextlib
import copy
import io
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mutualnet_det.config import add_mutualnet_config
from mutualnet_det.data import coco
from mutualnet_det.data.check import check_test_set
from mutualnet_det.data.coco import (
    check_coco_format,
    check_datasets,
    left_out_images,
    load_checked_coco,
    load_records,
    register_coco,
    register_coco_format,
    renumbered_ground_truth,
    training_tables,
)
from mutualnet_det.data.faults import DatasetError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not there")

TRIANGLE = [2, 3, 22, 3, 2, 33]
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]


def content():
    """A data set with everything that is legal and odd."""
    return {
        "info": {"year": 2020},
        "images": [
            {"id": 0, "file_name": "a.jpg", "width": 40, "height": 50, "flickr_url": "x"},
            {"id": 7, "file_name": "sub/b.jpg", "width": 64, "height": 48},
            {"id": 3, "file_name": "empty.jpg", "width": 30, "height": 30},
        ],
        "categories": [
            {"id": 90, "name": "cat", "supercategory": "animal"},
            {"id": 0, "name": "unused"},
            {"id": 4, "name": "dog"},
        ],
        "annotations": [
            annotation(0, 0, 90, [2, 3, 20, 30], [TRIANGLE], area=300),
            annotation(5, 7, 4, [5, 5, 50, 43], [SQUARE, [40, 40, 55, 40, 55, 48]], extra="kept?"),
            annotation(6, 0, 4, [-0.5, -0.25, 41, 51], [TRIANGLE]),  # a little outside
            annotation(9, 7, 4, [0, 0, 64, 48], crowd(48, 64), iscrowd=1),
        ],
    }


def annotation(id_, image_id, category_id, bbox, segmentation, **more):
    keys = {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": bbox}
    return {**keys, "segmentation": segmentation, "iscrowd": 0, **more}


def crowd(height, width):
    return {"size": [height, width], "counts": [10, 30, height * width - 40]}


@pytest.fixture
def write(tmp_path):
    """Writes a data set's JSON and its image files; returns (json_file, image_root)."""

    def write(data, images=("a.jpg", "sub/b.jpg", "empty.jpg")):
        folder = tmp_path / "images"
        (folder / "sub").mkdir(parents=True, exist_ok=True)
        sizes = (
            {} if isinstance(data, str) else {i.get("file_name"): i for i in data.get("images", ())}
        )
        for name in images:
            size = [sizes.get(name, {}).get(side) for side in ("width", "height")]
            known = all(isinstance(side, int) and side > 0 for side in size)
            Image.new("RGB", size if known else (8, 8)).save(folder / name)
        json_file = tmp_path / "instances.json"
        json_file.write_text(data if isinstance(data, str) else json.dumps(data))
        return str(json_file), str(folder)

    return write


@pytest.fixture
def catalogs():
    """What a test registers is forgotten after it."""
    before = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    yield
    DatasetCatalog.data, MetadataCatalog.data = before


def check(files, *, need_masks=True, bad_records="error", need_instances=False):
    return check_coco_format(
        *files, need_masks=need_masks, bad_records=bad_records, need_instances=need_instances
    )


def config(declarations=(), train=(), test=(), **keys):
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    cfg.DATASETS.COCO_FORMAT = list(declarations)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(train), tuple(test)
    cfg.MODEL.MASK_ON = keys.pop("mask_on", True)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = keys.pop("classes", 3)
    cfg.MUTUALNET.BAD_RECORDS = keys.pop("bad_records", "error")
    cfg.INPUT.MASK_FORMAT = keys.pop("mask_format", "polygon")
    assert not keys
    return cfg


# What is legal -----------------------------------------------------------------------------------


def test_what_is_legal_passes_unchanged(write):
    data = content()
    checked = check(write(data), need_instances=True)
    assert checked.data == data and not checked.is_changed
    assert checked.class_names == ["unused", "dog", "cat"]


def test_records_are_detectron2s_own(write, catalogs):
    files = write(content())
    records = load_checked_coco("legal", *files, need_masks=True, bad_records="error")
    assert records == load_coco_json(*files, "reference")
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        ours, theirs = (getattr(MetadataCatalog.get(n), key) for n in ("legal", "reference"))
        assert ours == theirs
    by_id = {record["image_id"]: record for record in records}
    assert by_id[3]["annotations"] == []
    assert [a["category_id"] for a in by_id[0]["annotations"]] == [2, 1]
    assert by_id[7]["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS
    assert by_id[7]["annotations"][1]["iscrowd"] == 1


# What is always an error -------------------------------------------------------------------------


def break_image_id(data):
    data["annotations"][1]["image_id"] = 99
    return r"1 of 4 annotations name an unknown image: annotation 5 names image 99\. Known are 3"


def break_category_id(data):
    data["annotations"][2]["category_id"] = 1
    return r"unknown category: annotation 6 names category 1\. Known are 3 category ids \(0, 4, 90"


def repeat_image(data):
    data["images"][1]["id"] = 3
    return r"1 image ids are not \(3\)"


def repeat_annotation(data):
    data["annotations"][1]["id"] = 9
    return r"1 annotation ids are not \(9\)"


def repeat_category(data):
    data["categories"][1]["id"] = 4
    return r"1 category ids are not \(4\)"


def lose_annotation_id(data):
    del data["annotations"][2]["id"]
    return r"'id' must be an integer in every annotation, .* 1 of 4, counted from 0: no\. 2: None"


def lose_file_name(data):
    del data["images"][0]["file_name"]
    return r"'file_name' must be a string in every image"


def lose_images(data):
    del data["images"]
    return r"no list of records 'images', but the keys info, categories, annotations"


def lose_annotations(data):
    del data["annotations"]
    return r"no list of records 'annotations'"


def lose_categories(data):
    data["categories"] = []
    return r"has no categories"


@pytest.mark.parametrize(
    "damage",
    [
        break_image_id,
        break_category_id,
        repeat_image,
        repeat_annotation,
        repeat_category,
        lose_annotation_id,
        lose_file_name,
        lose_images,
        lose_annotations,
        lose_categories,
    ],
)
@pytest.mark.parametrize("bad_records", ["error", "skip"])
def test_a_file_that_contradicts_itself_is_an_error(damage, bad_records, write):
    data = content()
    message = damage(data)
    json_file, image_root = write(data)
    with pytest.raises(DatasetError, match=message) as error:
        check((json_file, image_root), bad_records=bad_records)
    assert json_file in str(error.value)


def test_unreadable_files_are_named(write, tmp_path):
    text = json.dumps(content())
    json_file, image_root = write(text[: len(text) // 2])
    at = rf"instances\.json is not valid JSON: .* line 1, column \d+ .* of {len(text) // 2}"
    with pytest.raises(DatasetError, match=at):
        check((json_file, image_root))
    with pytest.raises(DatasetError, match=r"'images', but a list"):
        check(write("[]"))
    Path(json_file).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"Cannot read .*instances\.json"):
        check((json_file, image_root))
    with pytest.raises(DatasetError, match=r"no annotation file .*nowhere\.json"):
        check((str(tmp_path / "nowhere.json"), image_root))
    with pytest.raises(DatasetError, match=r"no image folder .*nowhere"):
        check((write(content())[0], str(tmp_path / "nowhere")))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
def test_json_in_an_encoding_that_others_do_not_read(write, encoding, catalogs):
    data = content()
    data["categories"][0]["name"] = "Käse"
    files = write(data)
    expected = load_checked_coco("plain", *files, need_masks=True, bad_records="error")
    Path(files[0]).write_bytes(json.dumps(data, ensure_ascii=False).encode(encoding))
    found = load_checked_coco("other", *files, need_masks=True, bad_records="error")
    assert found == expected
    assert MetadataCatalog.get("other").thing_classes[-1] == "Käse"
    assert renumbered_ground_truth(files[0])["categories"] == data["categories"]


def test_images_whose_name_is_written_another_way(write):
    data = content()
    data["images"][0]["file_name"] = "images\\a.jpg"
    data["images"][1]["file_name"] = "sub/B.JPG"
    with pytest.raises(DatasetError, match="another name than file_name says: 2 ") as error:
        check(write(data))
    for text in ("image 0: images\\a.jpg is there as a.jpg", "sub/B.JPG is there as sub/b.jpg"):
        assert text in str(error.value)


def test_masks_that_are_missing_altogether(write):
    data = content()
    for a in data["annotations"]:
        a["segmentation"] = []
    files = write(data)
    for bad_records in ("error", "skip"):
        with pytest.raises(DatasetError, match=r"boxes but no masks.* MODEL\.MASK_ON False"):
            check(files, bad_records=bad_records)
    assert not check(files, need_masks=False, need_instances=True).is_changed


def test_data_to_train_on_needs_an_object(write):
    data = content()
    data["annotations"] = data["annotations"][3:]  # the crowd
    check(write(data))
    with pytest.raises(DatasetError, match="no object to learn from: none of its 1 annotations"):
        check(write(data), need_instances=True)
    data["annotations"] = []
    check(write(data))
    with pytest.raises(DatasetError, match="no object to learn from: none of its 0 annotations"):
        check(write(data), need_instances=True)


def test_a_data_set_without_any_usable_image(write):
    data = content()
    for image in data["images"]:
        image["file_name"] = f"elsewhere/{image['id']}.jpg"
    with pytest.raises(DatasetError, match=r"no image that can be used.*\n.*without a file"):
        check(write(data), bad_records="skip")


# What can be left out ----------------------------------------------------------------------------

NAN = float("nan")
BAD_BOXES = [
    None,
    [],
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    [1, 2, 0, 4],
    [1, 2, 3, -1],
    [NAN, 2, 3, 4],
    [1, 2, math.inf, 4],
    ["1", "2", "3", "4"],
]
BAD_MASKS = [
    [],
    None,
    "polygon",
    [[]],
    [[1, 2, 3, 4]],
    [[1, 2, 3, 4, 5]],
    [[1, 2, 3, 4, 5, 6, 7]],
    [[1, 2, 3, 4, 5, NAN]],
    [[1, 2, 3, 4, 5, "6"]],
    [1, 2, 3, 4, 5, 6],
    {"size": [3, 3], "counts": [9]},
    {"size": [40, 50], "counts": [2000]},
    {"size": [50, 40], "counts": [9]},
    {"size": [50, 40]},
]


def assert_left_out(files, data, good, *, need_masks=True):
    """``data`` is an error, and loads as ``good`` where bad records are skipped."""
    with pytest.raises(DatasetError, match=r"set MUTUALNET\.BAD_RECORDS skip") as error:
        check(files, need_masks=need_masks)
    checked = check(files, need_masks=need_masks, bad_records="skip")
    assert checked.data == good and checked.is_changed
    return str(error.value)


@pytest.mark.parametrize("box", BAD_BOXES, ids=str)
def test_boxes_without_an_area(box, write):
    data, good = content(), content()
    data["annotations"][0]["bbox"] = box
    del good["annotations"][0]
    message = assert_left_out(write(data), data, good)
    assert "boxes that are not" in message and f"annotation 0 of a.jpg: {box!r}" in message


@pytest.mark.parametrize("masks", BAD_MASKS, ids=str)
def test_masks_that_are_none(masks, write):
    data, good = content(), content()
    data["annotations"][0]["segmentation"] = masks
    files = write(data)
    del good["annotations"][0]
    assert "annotation 0 of a.jpg" in assert_left_out(files, data, good)
    # Where masks are not used they are no fault, and none that is broken is handed on.
    kept = check(files, need_masks=False).data["annotations"]
    assert [a["id"] for a in kept] == [0, 5, 6, 9]
    assert not kept[0]["segmentation"]


def test_one_bad_polygon_of_several(write):
    data, good = content(), content()
    data["annotations"][1]["segmentation"].insert(1, [1, 2, 3, 4])
    message = assert_left_out(write(data), data, good)
    assert (
        "3 or more points in finite numbers: 1 (annotation 5 of sub/b.jpg: [1, 2, 3, 4])" in message
    )


@pytest.mark.parametrize("size", [(0, 48), (64, -1), (None, 48), (64.5, 48), ("64", 48)], ids=str)
def test_images_without_a_size(size, write):
    data, good = content(), content()
    data["images"][1]["width"], data["images"][1]["height"] = size
    del good["images"][1], good["annotations"][3], good["annotations"][1]
    message = assert_left_out(write(data), data, good)
    assert f"image 7: width {size[0]!r}, height {size[1]!r}" in message


def test_images_without_a_file(write):
    data, good = content(), content()
    del good["images"][1], good["annotations"][3], good["annotations"][1]
    message = assert_left_out(write(data, images=("a.jpg", "empty.jpg")), data, good)
    assert "1 (image 7: sub/b.jpg)" in message
    assert "images that cannot be used: 2 (annotation 5; annotation 9)" in message


def test_images_of_too_many_pixels_by_what_the_file_says(write):
    data, good = content(), content()
    data["images"][1].update(width=16000, height=12000)
    del good["images"][1], good["annotations"][3], good["annotations"][1]
    files = write(content())
    Path(files[0]).write_text(json.dumps(data))
    message = assert_left_out(files, data, good)
    assert "more than 179 million pixels" in message and "image 7: 16000 x 12000 px" in message


def test_ignore_without_iscrowd(write):
    data, good = content(), content()
    data["annotations"][0]["ignore"] = data["annotations"][3]["ignore"] = 1
    good["annotations"][3]["ignore"] = 0  # Detectron2 asserts that none is set
    del good["annotations"][0]
    assert "need iscrowd 1" in assert_left_out(write(data), data, good)


CROWDS = [1, True, 1.0, "1", "true", " True"]
OBJECTS = [0, False, 0.0, "0", "false", "", None, "missing"]


@pytest.mark.parametrize("value", [*CROWDS, *OBJECTS], ids=repr)
def test_a_crowd_is_one_for_training_and_for_scoring(value, write, catalogs):
    data = content()
    data["annotations"][0]["iscrowd"] = value
    if value == "missing":
        del data["annotations"][0]["iscrowd"]
    files = write(data)
    records = load_checked_coco("mine", *files, need_masks=True, bad_records="error")
    learnt = records[0]["annotations"][0]
    truth = renumbered_ground_truth(files[0])["annotations"][0]["iscrowd"]
    assert (learnt.get("iscrowd", 0) == 0) is (truth == 0) is (value in OBJECTS)


@pytest.mark.parametrize("value", [2, -1, 0.5, NAN, "yes", [], [1], {}], ids=repr)
def test_a_crowd_that_is_neither_is_a_bad_record(value, write):
    data, good = content(), content()
    data["annotations"][1]["iscrowd"] = value
    del good["annotations"][1]
    message = assert_left_out(write(data), data, good)
    assert f"iscrowd is neither 0 nor 1: 1 (annotation 5 of sub/b.jpg: {value!r})" in message


@pytest.mark.parametrize("value", [None, 0, False, "0", "false", ""], ids=repr)
def test_nothing_is_ignored_where_ignore_says_no(value, write, catalogs):
    data = content()
    for item in data["annotations"]:
        item["ignore"] = value
    records = load_checked_coco("mine", *write(data), need_masks=True, bad_records="error")
    assert sum(len(record["annotations"]) for record in records) == 4


def test_data_sets_of_code_read_crowds_alike(catalogs):
    crowds = [{"iscrowd": value} for value in (None, "1", 0, True)] + [{}]
    records = [{"file_name": "a.jpg", "annotations": crowds}]
    DatasetCatalog.register("of_code", lambda: records)
    (record,) = load_records(config(), "of_code")
    assert record["annotations"] == [{"iscrowd": v} for v in (0, 1, 0, 1)] + [{}]
    crowds.append({"iscrowd": "many"})
    with pytest.raises(DatasetError, match=r"'of_code' has .* of a\.jpg whose iscrowd is 'many'"):
        load_records(config(), "of_code")


def test_counts_and_first_examples_are_told(write, caplog):
    data = content()
    for id_ in range(100, 120):
        data["annotations"].append(annotation(id_, 0, 4, [1, 1, 0, 0], [SQUARE]))
    data["annotations"][0]["segmentation"] = [[1, 1]]
    files = write(data)
    with pytest.raises(DatasetError) as error:
        check(files)
    message = str(error.value)
    assert "an area: 20 (annotation 100 of" in message and "; ...)" in message
    assert "annotation 104" in message and "annotation 105" not in message
    assert "finite numbers: 1 (annotation 0 of a.jpg: [1, 1])" in message
    with caplog.at_level(logging.WARNING):
        check(files, bad_records="skip")
        check(files, bad_records="skip")
    assert [r.levelname for r in caplog.records] == ["WARNING"]  # once
    assert "an area: 20" in caplog.text and files[0] in caplog.text


def test_bad_records_do_not_reach_the_loader(write, catalogs):
    data, good = content(), content()
    data["annotations"][1]["segmentation"].append([1, 2, 3, 4])
    data["annotations"][0]["bbox"] = [1, 2, NAN, 4]
    del good["annotations"][0]
    skipped = load_checked_coco("a", *write(data), need_masks=True, bad_records="skip")
    with pytest.raises(DatasetError, match="annotation 0"):
        load_checked_coco("a", *write(data), need_masks=True, bad_records="error")
    assert skipped == load_checked_coco("a", *write(good), need_masks=True, bad_records="error")


def test_a_file_without_fault_is_not_checked_twice_unless_it_changes(write, catalogs, monkeypatch):
    files = write(content())
    load_checked_coco("a", *files, need_masks=True, bad_records="error")
    with monkeypatch.context() as patch:
        patch.setattr(coco, "check_coco_format", lambda *_, **__: pytest.fail("checked again"))
        load_checked_coco("a", *files, need_masks=True, bad_records="error")
    data = content()
    data["annotations"][0]["bbox"] = [1, 2, 0, 4]
    with pytest.raises(DatasetError, match="annotation 0"):
        load_checked_coco("a", *write(data), need_masks=True, bad_records="error")


# Scoring -----------------------------------------------------------------------------------------


def perfect_ap(ground_truth, iou_type, tmp_path):
    path = tmp_path / "ground_truth.json"
    path.write_text(json.dumps(ground_truth))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        detections = [
            {**a, "segmentation": truth.annToRLE(a), "score": 1.0}
            for a in copy.deepcopy(ground_truth["annotations"])
            if not a["iscrowd"]
        ]
        if iou_type == "bbox":
            for a in detections:
                del a["segmentation"]
        evaluator = COCOeval(truth, truth.loadRes(detections), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats[0]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_perfect_detections_score_one_despite_annotation_id_0(iou_type, write, tmp_path):
    json_file, _ = write(content())
    renumbered = renumbered_ground_truth(json_file)
    assert [a["id"] for a in renumbered["annotations"]] == [1, 2, 3, 4]
    assert perfect_ap(renumbered, iou_type, tmp_path) == pytest.approx(1)
    # The same with the file's own ids: pycocotools counts the match with id 0 as a miss.
    for a, original in zip(renumbered["annotations"], content()["annotations"], strict=True):
        a["id"] = original["id"]
    assert perfect_ap(renumbered, iou_type, tmp_path) < 0.9


def test_ground_truth_is_completed_and_restricted(write):
    data = content()
    for a in data["annotations"]:
        a.pop("iscrowd") if a["iscrowd"] == 0 else None
    data["annotations"][1]["area"] = None
    data["annotations"].append(annotation(20, 0, 90, [1, 1, 7, 3], []))
    data["annotations"].append(annotation(21, 0, 90, [1, 1, 0, 3], [SQUARE]))
    for index, (crowd, masks) in enumerate(((None, ""), (False, {}), (0, None)), start=30):
        masks = {"iscrowd": crowd, "segmentation": masks}
        data["annotations"].append({**annotation(index, 0, 90, [1, 1, 7, 3], []), **masks})
    del data["info"]
    json_file, _ = write(data, images=())
    truth = renumbered_ground_truth(json_file)
    # What is no mask and no crowd, all evaluators read alike.
    annotations, others = truth["annotations"][:5], truth["annotations"][5:]
    assert [(a["iscrowd"], a["segmentation"]) for a in others] == [(0, [])] * 3
    assert all(type(a["iscrowd"]) is int for a in others)
    assert [a["iscrowd"] for a in annotations] == [0, 0, 0, 1, 0]
    # The triangle's given area, two polygons, a triangle, the crowd's 30 px, a box.
    assert [a["area"] for a in annotations] == pytest.approx([300, 160, 300, 30, 21], rel=0.06)
    assert annotations[0]["area"] == 300 and annotations[3]["area"] == 30
    assert truth["categories"] == data["categories"] and truth["info"] == {}

    some = renumbered_ground_truth(json_file, {7, 3})
    assert [image["id"] for image in some["images"]] == [7, 3]
    assert [(a["id"], a["image_id"]) for a in some["annotations"]] == [(1, 7), (2, 7)]
    masks = renumbered_ground_truth(json_file, need_masks=True)
    assert [a["bbox"] for a in masks["annotations"]] == [a["bbox"] for a in data["annotations"][:4]]


@pytest.mark.parametrize("area", [None, "12", NAN, float("inf"), 0, -1], ids=repr)
def test_an_area_that_cannot_be_is_that_of_the_mask(area, write):
    data = content()
    data["annotations"][1]["area"] = area
    truth = renumbered_ground_truth(write(data)[0])
    assert truth["annotations"][1]["area"] == pytest.approx(160, rel=0.06)


@pytest.mark.parametrize("absent", ["missing", None, []], ids=repr)
def test_an_object_without_keypoints_is_one_of_which_none_is_known(absent, write):
    data = content()
    data["annotations"][0] |= {"keypoints": [1, 2, 2, 3, 4, 0], "num_keypoints": None}
    if absent != "missing":
        data["annotations"][1] |= {"keypoints": absent}
    truth = renumbered_ground_truth(write(data)[0])["annotations"]
    assert [a["num_keypoints"] for a in truth] == [1, 0, 0, 0]
    assert all(len(a["keypoints"]) == 6 for a in truth)


@pytest.mark.parametrize("first", [-90, 2**62, 2**64 - 91, 2**100])
def test_ids_may_be_any_integers(first, write, catalogs):
    data = content()
    for part, key in (("images", "image_id"), ("categories", "category_id"), ("annotations", "id")):
        for record in data[part]:
            record["id"] += first
        for item in data["annotations"] if key != "id" else ():
            item[key] += first
    files = write(data)
    records = load_checked_coco("large", *files, need_masks=True, bad_records="error")
    assert [record["image_id"] - first for record in records] == [0, 3, 7]
    assert [a["category_id"] for a in records[0]["annotations"]] == [2, 1]
    truth = renumbered_ground_truth(files[0], {record["image_id"] for record in records})
    assert [image["id"] for image in truth["images"]] == [image["id"] for image in data["images"]]
    assert [a["id"] for a in truth["annotations"]] == [1, 2, 3, 4]


# Declaring and using -----------------------------------------------------------------------------


def test_declared_data_sets_are_registered(write, catalogs):
    files = write(content())
    for _ in range(2):  # the same again is fine
        register_coco_format([["mine", *files], ("mine_too", *files)])
    metadata = MetadataCatalog.get("mine")
    assert (metadata.json_file, metadata.image_root) == files
    assert metadata.evaluator_type == "coco"
    assert len(DatasetCatalog.get("mine")) == 3
    assert metadata.thing_classes == ["unused", "dog", "cat"]


def test_wrong_declarations_are_named(write, catalogs, tmp_path):
    json_file, image_root = write(content())
    good = ["mine", json_file, image_root]
    for entry in (
        "mine",
        ["mine", json_file],
        [*good, "x"],
        ["mine", json_file, 3],
        ["", *good[1:]],
    ):
        with pytest.raises(DatasetError, match=r"COCO_FORMAT\[1\] is .*expected \[name, JSON file"):
            register_coco_format([good, entry])
    with pytest.raises(DatasetError, match=r"COCO_FORMAT\[1\] declares the name 'mine' a second"):
        register_coco_format([good, good])
    with pytest.raises(DatasetError, match=r"'x'\): there is no annotation file nowhere\.json"):
        register_coco_format([["x", "nowhere.json", image_root]])
    with pytest.raises(DatasetError, match=r"'x'\): there is no image folder nowhere"):
        register_coco_format([["x", json_file, "nowhere"]])
    with pytest.raises(DatasetError, match=f"It is there as {json_file}"):
        register_coco_format([["x", json_file.replace("/", "\\"), image_root]])
    with pytest.raises(DatasetError, match=r"'mine' is taken by .*instances\.json.*choose another"):
        register_coco_format([["mine", json_file, str(tmp_path)]])
    DatasetCatalog.register("by_code", list)
    with pytest.raises(DatasetError, match=r"'by_code' is taken"):
        register_coco_format([["by_code", json_file, image_root]])


def test_check_datasets_completes_metadata_before_anything_is_loaded(write, catalogs):
    cfg = config([["mine", *write(content())]], train=["mine"], test=["mine"])
    check_datasets(cfg)
    assert MetadataCatalog.get("mine").thing_classes == ["unused", "dog", "cat"]
    assert MetadataCatalog.get("mine").thing_dataset_id_to_contiguous_id == {0: 0, 4: 1, 90: 2}
    assert len(load_records(cfg, "mine")) == 3


def test_records_need_no_call_before(write, catalogs):
    cfg = config([["mine", *write(content())]])
    assert len(load_records(cfg, "mine")) == 3
    assert MetadataCatalog.get("mine").thing_classes == ["unused", "dog", "cat"]
    with pytest.raises(DatasetError, match=r"names 'mind', .*Did you mean 'mine'"):
        load_records(cfg, "mind")


def test_check_datasets_refuses(write, catalogs):
    data = content()
    files = write(data)
    declared = [["mine_train", *files]]
    with pytest.raises(DatasetError, match=r"TEST names 'mine_trian'.*Did you mean 'mine_train'"):
        check_datasets(config(declared, train=["mine_train"], test=["mine_trian"]))
    with pytest.raises(DatasetError, match=r"3 categories \(unused, dog, cat\), .*CLASSES is 80"):
        check_datasets(config(declared, train=["mine_train"], classes=80))

    data["annotations"][0]["segmentation"] = crowd(50, 40)
    write(data)
    with pytest.raises(
        DatasetError, match=r"1 objects with RLE .*annotation 0.*MASK_FORMAT bitmask"
    ):
        check_datasets(config(declared, train=["mine_train"]))
    check_datasets(config(declared, train=["mine_train"], mask_format="bitmask"))
    check_datasets(config(declared, train=["mine_train"], mask_on=False))

    data["annotations"] = data["annotations"][3:]
    write(data)
    check_datasets(config(declared, test=["mine_train"]))
    with pytest.raises(DatasetError, match="no object to learn from"):
        check_datasets(config(declared, train=["mine_train"]))


def test_a_data_set_to_score_on_needs_an_object(write, catalogs):
    data = content()
    declared = [["mine", *write(data)]]
    check_test_set(config(declared, test=["mine"]))
    data["annotations"] = data["annotations"][3:]  # the crowd
    for annotations in (data["annotations"], []):
        write({**data, "annotations": annotations})
        cfg = config(declared, test=["mine"])
        check_datasets(cfg)  # to train without an evaluation
        with pytest.raises(DatasetError, match="'mine' has no objects .*TEST.EVAL_PERIOD 0"):
            check_test_set(cfg)


def test_an_object_in_an_image_that_cannot_be_used_does_not_count(write, catalogs):
    data = content()
    data["annotations"] = data["annotations"][1:2]
    json_file, image_root = write(data)
    Image.new("RGB", (9, 9)).save(Path(image_root) / "sub" / "b.jpg")
    cfg = config([["own", json_file, image_root]], test=["own"])
    with pytest.raises(DatasetError, match=r"another size.*b.jpg: 9 x 9 px, not 64 x 48"):
        check_datasets(cfg)
    cfg.MUTUALNET.BAD_RECORDS = "skip"
    check_datasets(cfg)
    assert [Path(path).name for path in left_out_images("own")] == ["b.jpg"]
    assert [record["image_id"] for record in load_records(cfg, "own")] == [0, 3]
    with pytest.raises(DatasetError, match="'own' has no objects to find"):
        check_test_set(cfg)


def test_the_training_sets_are_told(write, catalogs):
    cfg = config([["mine", *write(content())]], train=["mine"], test=["mine"])
    check_datasets(cfg)
    (table,) = training_tables(cfg)
    assert table.splitlines()[0] == "mine: 3 images (1 without an object)"
    assert table.splitlines()[3].split() == ["dog", "2", "2", "1", "0"]


def test_the_config_says_what_becomes_of_masks_and_bad_records(write, catalogs):
    data = content()
    data["annotations"][0]["bbox"] = [0, 0, 0, 0]
    data["annotations"][2]["segmentation"] = []
    declared = [["mine", *write(data)]]
    numbers = {}
    for mask_on in (True, False):
        cfg = config(declared, train=["mine"], mask_on=mask_on)
        for use in (check_datasets, lambda cfg: load_records(cfg, "mine")):
            with pytest.raises(DatasetError, match="BAD_RECORDS skip"):
                use(cfg)
        cfg.MUTUALNET.BAD_RECORDS = "skip"
        check_datasets(cfg)
        numbers[mask_on] = sum(len(r["annotations"]) for r in load_records(cfg, "mine"))
    assert numbers == {True: 2, False: 3}


def test_data_sets_registered_by_code_are_left_to_it(catalogs):
    DatasetCatalog.register("by_code", lambda: [{"file_name": "x"}])
    cfg = config(train=["by_code"])
    check_datasets(cfg)
    assert load_records(cfg, "by_code") == [{"file_name": "x"}]


def test_files_are_generated_before_they_are_looked_for(write, catalogs, tmp_path):
    calls = []
    json_file, image_root = str(tmp_path / "instances.json"), str(tmp_path / "images")
    register_coco("made", json_file, image_root, generate=lambda: calls.append(write(content())))
    assert not calls
    check_datasets(config(train=["made"]))
    assert len(calls) == 1 and len(DatasetCatalog.get("made")) == 3


def test_builtin_data_sets_that_are_not_there(catalogs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "coco_2017_val_100"
    if Path(MetadataCatalog.get(name).json_file).exists():
        pytest.skip("COCO is there")
    with pytest.raises(DatasetError, match=r"looked for .*2017.*\.json.* DETECTRON2_DATASETS"):
        check_datasets(config(test=[name], classes=80))


def test_categories_that_are_not_those_known(write, catalogs):
    files = write(content())
    register_coco("mine", *files, thing_classes=["unused", "dog", "horse"])
    with pytest.raises(DatasetError, match=r"'mine' are known as .*'horse'.*has .*'cat'"):
        check_datasets(config(train=["mine"]))


# Real data ---------------------------------------------------------------------------------------


def shared_files(folder, split):
    place = SHARED / folder
    return str(place / "annotations" / f"instances_{split}.json"), str(place / split)


@needs_shared
@pytest.mark.parametrize(
    ("folder", "split", "masks", "classes", "images", "annotations"),
    [
        ("facade", "val", True, 10, 84, 2737),
        ("coco_mini", "train2017", True, 80, 80, 739),
        ("coco_mini", "val2017", True, 80, 79, 624),
        ("blood_cells", "val", False, 3, 20, 470),
    ],
)
def test_real_data(folder, split, masks, classes, images, annotations, catalogs):
    files = shared_files(folder, split)
    cfg = config([["real", *files]], train=["real"], classes=classes, mask_on=masks)
    check_datasets(cfg)
    records = load_records(cfg, "real")
    assert records == load_coco_json(*files, "reference")
    assert len(records) == images
    assert sum(len(record["annotations"]) for record in records) == annotations
    truth = renumbered_ground_truth(files[0], need_masks=masks)
    assert [a["id"] for a in truth["annotations"]] == list(range(1, annotations + 1))
    assert all(np.isfinite(a["area"]) and a["area"] > 0 for a in truth["annotations"])


@needs_shared
def test_real_boxes_without_masks(catalogs):
    cfg = config([["cells", *shared_files("blood_cells", "train")]], train=["cells"])
    with pytest.raises(DatasetError, match=r"blood_cells.*boxes but no masks.*MASK_ON False"):
        check_datasets(cfg)

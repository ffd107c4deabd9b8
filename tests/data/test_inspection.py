"""Data sets inspected without training."""

import json
import pickle

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mutualnet_det.data.classification import register_cifar, register_image_folder
from mutualnet_det.data.coco_check import check_coco_format
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.inspection import (
    ClassFolder,
    DatasetFiles,
    drawable,
    fixed,
    inspect_datasets,
    write_json,
)


def annotation(id_, image_id, category_id=1, **more):
    mask = [[5, 5, 25, 5, 25, 25, 5, 25]]
    keys = {"id": id_, "image_id": image_id, "category_id": category_id, "bbox": [5, 5, 20, 20]}
    return {**keys, "segmentation": mask, "iscrowd": 0, **more}


@pytest.fixture
def make(tmp_path):
    """Makes a data set of noise images, ``seeds`` of them; returns its files."""

    def make(name, seeds, annotations, names=("cat", "dog")):
        folder = tmp_path / name
        folder.mkdir()
        images = []
        for number, seed in enumerate(seeds, start=1):
            pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 60, "height": 40})
        data = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        return DatasetFiles(name, str(tmp_path / f"{name}.json"), str(folder))

    return make


def test_sound_data_sets_side_by_side(make):
    train = make("train", [1, 2], [annotation(1, 1), annotation(2, 2, 2), annotation(3, 2, 2)])
    val = make("val", [3], [annotation(1, 1), annotation(2, 1, 2, iscrowd=1)])
    inspection = inspect_datasets([train, val], need_masks=True)
    assert inspection.is_sound and not inspection.duplicates
    lines = [line.split() for line in str(inspection).splitlines()]
    assert ["dog", "1", "2", "2", "0", "0", "0", "0"] in lines
    assert "sides of 40 to 60 px; 2 RGB" in str(inspection)
    assert lines[lines.index(["class", "train", "val"]) + 2] == ["dog", "2", "0"]
    assert "no image stands in two places" in str(inspection)


def test_classes_that_differ(make):
    train = make("train", [1], [annotation(1, 1)])
    val = make("val", [2], [annotation(1, 1)], names=("dog", "cat", "cow"))
    text = str(inspect_datasets([train, val], need_masks=True))
    assert "the classes DIFFER" in text
    assert ["2", "-", "cow"] in [line.split() for line in text.splitlines()]


def test_images_that_stand_in_two_places(make):
    train = make("train", [1, 2, 2], [annotation(1, 1)])
    val = make("val", [3, 1], [annotation(1, 1)])
    inspection = inspect_datasets([train, val], need_masks=True)
    names = [["/".join(path.split("/")[-2:]) for path in paths] for paths in inspection.duplicates]
    assert sorted(names) == [["train/1.png", "val/2.png"], ["train/2.png", "train/3.png"]]
    assert "2 images stand in several places" in str(inspection)
    assert "1 of them in several data sets" in str(inspection)
    assert "1 within one data set" in str(inspection)


@pytest.fixture
def faulty(make, tmp_path):
    """A data set with a box outside, an image of another size, one that is not there, a crowd."""
    annotations = [
        annotation(1, 1),
        annotation(2, 1, bbox=[500, 5, 20, 20]),
        annotation(3, 2),
        annotation(4, 3, 2),
        annotation(5, 1, 2, iscrowd=1),
    ]
    files = make("faulty", [1, 2, 3], annotations)
    Image.new("RGB", (9, 9)).save(tmp_path / "faulty" / "2.png")
    (tmp_path / "faulty" / "3.png").unlink()
    return files


def test_what_cannot_be_used_is_told(faulty, caplog):
    inspection = inspect_datasets([faulty], need_masks=True)
    (inspected,) = inspection.datasets
    assert not inspection.is_sound
    assert inspected.unusable == {2}
    text = str(inspection)
    assert "boxes outside their image, where nothing can be found: 1 (annotation 2 of 1.png" in text
    assert "images without a file" in text and "another size than the annotations say: 1" in text
    assert "1 of 2 annotations are crowds" in text
    assert [c.left_out for c in inspected.summary.classes] == [2, 1]
    assert not caplog.records  # told once, by the report


def test_a_file_that_cannot_be_used_does_not_hide_the_others(make, tmp_path):
    good = make("good", [1], [annotation(1, 1)])
    (tmp_path / "bad.json").write_text("{")
    bad = DatasetFiles("bad", str(tmp_path / "bad.json"), good.image_root)
    inspection = inspect_datasets([bad, good], need_masks=True)
    assert not inspection.is_sound
    assert "bad: cannot be used" in str(inspection) and "not valid JSON" in str(inspection)
    assert inspection.datasets[1].is_sound
    with pytest.raises(DatasetError, match="bad cannot be mended"):
        fixed(inspection.datasets[0])


def test_a_mended_copy_is_sound(faulty, tmp_path):
    (inspected,) = inspect_datasets([faulty], need_masks=True).datasets
    content, changes = fixed(inspected, crowds_are_objects=True)
    assert "1 crowds are objects now" in changes
    assert any("1 boxes outside their image" in change for change in changes)
    path = str(tmp_path / "fixed.json")
    write_json(path, content)
    checked = check_coco_format(path, faulty.image_root, need_masks=True, bad_records="error")
    assert not checked.is_changed
    assert [a["id"] for a in checked.data["annotations"]] == [1, 5]
    assert [image["id"] for image in checked.data["images"]] == [1]
    with pytest.raises(DatasetError, match="is there already"):
        write_json(path, content)
    with pytest.raises(DatasetError, match="cannot be written"):
        write_json(str(tmp_path / "nowhere" / "fixed.json"), content)


def test_damage_inside_is_found_by_decoding(make, tmp_path):
    files = make("mine", [1], [annotation(1, 1)])
    path = tmp_path / "mine" / "1.png"
    content = path.read_bytes()
    path.write_bytes(content[:3000] + bytes(40) + content[3040:])
    assert inspect_datasets([files], need_masks=True).is_sound
    assert not inspect_datasets([files], need_masks=True, decode=True).is_sound


def test_masks_are_asked_of_files_that_have_some(make):
    masks = make("masks", [1], [annotation(1, 1), annotation(2, 1, segmentation=[])])
    boxes = make("boxes", [1], [annotation(1, 1, segmentation=[])])
    one, other = inspect_datasets([masks, boxes]).datasets
    assert "annotations without a mask: 1" in str(one) and other.is_sound
    assert "boxes but no masks" in str(inspect_datasets([boxes], need_masks=True))


# Class folders -----------------------------------------------------------------------------------


@pytest.fixture
def make_folder(tmp_path, monkeypatch):
    """Makes a folder of noise images, ``{class: seeds}``, and registers it."""
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))

    def make(name, classes):
        for class_, seeds in classes.items():
            (tmp_path / name / class_).mkdir(parents=True)
            for number, seed in enumerate(seeds):
                pixels = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / class_ / f"{number}.png")
        register_image_folder(name, str(tmp_path / name))
        return ClassFolder(name, str(tmp_path / name))

    return make


def test_folders_of_classes(make_folder):
    train = make_folder("train", {"cat": [1, 2], "dog": [3]})
    val = make_folder("val", {"cat": [4], "dog": [5]})
    inspection = inspect_datasets([train, val])
    assert inspection.is_sound
    lines = [line.split() for line in str(inspection).splitlines()]
    assert lines[:5] == [
        ["train:", "3", "images"],
        ["class", "images", "left", "out"],
        ["cat", "2", "0"],
        ["dog", "1", "0"],
        ["all", "3", "0"],
    ]
    assert "sides of 40 to 60 px; 3 RGB" in str(inspection)
    assert lines[lines.index(["class", "train", "val"]) + 1] == ["cat", "2", "1"]
    records, truth = drawable(inspection.datasets[0])
    assert [record["height"] for record in records] == [40, 40, 40]
    assert [a["category_id"] for a in truth["annotations"]] == [0, 0, 1]
    assert truth["annotations"][0]["bbox"] == [0, 0, 60, 40]
    with pytest.raises(DatasetError, match="train cannot be mended. It has no annotation file"):
        fixed(inspection.datasets[0])


def test_what_lies_in_folders_of_classes_and_cannot_be_used(make_folder, tmp_path):
    train = make_folder("train", {"cat": [1, 2], "dog": [1]})
    folder = tmp_path / "train"
    (folder / "dog" / "half.png").write_bytes((folder / "cat" / "1.png").read_bytes()[:900])
    (folder / "dog" / "a.heic").touch()
    (folder / "loose.jpg").touch()
    inspection = inspect_datasets([train])
    assert not inspection.is_sound
    text = str(inspection)
    assert "train: 3 images, 1 left out" in text
    assert ["dog", "1", "1"] in [line.split() for line in text.splitlines()]
    assert "half.png" in text and "images that cannot be read: 1" in text
    assert "left out: files whose names are not of images: 1 .heic" in text
    assert "left out: images outside the folders of classes: loose.jpg" in text
    assert "1 of them under several classes" in text and "cat/0.png" in text
    assert len(drawable(inspection.datasets[0])[0]) == 3


def test_an_image_of_a_class_and_of_a_detector_has_one_class(make, make_folder):
    inspection = inspect_datasets(
        [make("det", [1], [annotation(1, 1)]), make_folder("c", {"a": [1]})]
    )
    assert len(inspection.duplicates) == 1
    assert "several data sets" in str(inspection) and "several classes" not in str(inspection)


def test_a_folder_without_classes(tmp_path, make_folder):
    (tmp_path / "empty").mkdir()
    (one,) = inspect_datasets([make_folder("empty", {})]).datasets
    assert not one.is_sound and "empty: cannot be used" in str(one)


def test_cifar_has_counts_alone(tmp_path, make_folder):
    batch = {"data": np.zeros((3, 3072), np.uint8), "fine_labels": [0, 1, 1]}
    (tmp_path / "test").write_bytes(pickle.dumps(batch))
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": ["cat", "dog"]}))
    register_cifar("tiny_cifar", str(tmp_path), "test")
    (one,) = inspect_datasets([ClassFolder("tiny_cifar", str(tmp_path))]).datasets
    assert one.is_sound and one.summary.counts == [("cat", 1), ("dog", 2)]
    assert "px" not in str(one)

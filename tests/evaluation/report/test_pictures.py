"""Pictures of a report: images embedded once, and what was found as outlines over them."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mutualnet_det.evaluation.report import pictures as pictures_module
from mutualnet_det.evaluation.report.pictures import collect_pictures


@pytest.fixture
def evaluated(tmp_path, write_evaluation, write_pictures, run_facts):
    """Writes evaluations whose images are in ``tmp_path/images``; gives what a report shows."""

    def evaluated(*names, change=lambda folder: None, **how):
        root = tmp_path / "images"
        config = f"DATASETS:\n  COCO_FORMAT:\n  - [things_val, some.json, {root}]\n"
        folders, grids = [], []
        for name in names:
            grids.append(write_evaluation(tmp_path / name, run=run_facts(config=config)))
            write_pictures(tmp_path / name, root, **how)
            change(tmp_path / name)
            folders.append(tmp_path / name / "grid")
        tables = [[str(e.point) for e in grid.query_table().entries] for grid in grids]
        return collect_pictures(folders, grids, tables), tables

    return evaluated


def test_objects_at_every_point_of_the_table(evaluated):
    pictures, (table, _) = evaluated("a", "b")
    assert pictures["notes"] == []
    (group,) = pictures["groups"]  # the runs share their images
    assert set(group["found"]) == {0, 1} and list(group["found"][0]) == table
    assert group["classes"].keys() == {"3", "7"} and group["classes"]["7"][0] == "dog"
    assert [image["name"] for image in group["images"]] == ["1.png", "2.png"]
    for truth in group["truth"]:
        ((category, score, box, outline, keypoints),) = truth  # without the crowd
        assert (category, score, box, keypoints) == ("3", None, [20, 20, 40, 40], None)
    for point, images in group["found"][0].items():
        for objects in images:
            certain = [("3", 0.9)] + ([("7", float(point[:4]))] if float(point[:4]) >= 0.3 else [])
            assert [(o[0], o[1]) for o in objects] == sorted(certain, key=lambda o: -o[1])
            assert all(o[3] is not None for o in objects)


def test_outlines_cover_the_mask(evaluated):
    pictures, _ = evaluated("a")
    outline = pictures["groups"][0]["truth"][0][0][3]
    (corners,) = [re.findall(r"([\d.]+) ([\d.]+)", part) for part in outline.split("Z")[:-1]]
    drawn = Image.new("L", (200, 100))
    ImageDraw.Draw(drawn).polygon([(float(x), float(y)) for x, y in corners], fill=1)
    expected = np.zeros((100, 200), bool)
    expected[20:60, 20:60] = True
    drawn_pixels = np.asarray(drawn, bool)
    assert (drawn_pixels & expected).sum() / (drawn_pixels | expected).sum() > 0.94


def test_large_images_are_made_smaller_and_objects_with_them(evaluated, monkeypatch):
    monkeypatch.setattr(pictures_module, "MAX_SIDE", 100)
    pictures, _ = evaluated("a")
    (group,) = pictures["groups"]
    image = group["images"][1]
    assert (image["width"], image["height"]) == (100, 50)
    head, _, encoded = image["source"].partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as decoded:
        assert decoded.size == (100, 50)
        assert abs(decoded.getpixel((50, 25))[0] - 80) <= 3
    assert group["truth"][0][0][2] == [10, 10, 20, 20]


def test_a_page_does_not_outgrow_its_bound(evaluated, monkeypatch):
    monkeypatch.setattr(pictures_module, "MAX_BYTES", 1)
    (group,) = evaluated("a")[0]["groups"]
    assert len(group["images"]) == len(group["truth"]) == 1
    assert all(len(images) == 1 for images in group["found"][0].values())


def test_boxes_alone(evaluated):
    def without_masks(folder):
        for path in (folder / "grid" / "detections").glob("*.segm.json"):
            path.write_text("[]")

    (group,) = evaluated("a", change=without_masks)[0]["groups"]
    assert [o[3] for o in group["found"][0]["1.00x480"][0]] == [None, None]


@pytest.mark.parametrize(
    "spoil, note",
    [
        (lambda folder: (folder / "grid" / "ground_truth.json").unlink(), "no ground_truth.json"),
        (lambda folder: (folder.parent / "images" / "1.png").unlink(), "not at hand .*1.png"),
        (
            lambda folder: (folder.parent / "images" / "1.png").write_bytes(b"no image"),
            "not at hand .*1.png",
        ),
        (
            lambda folder: Image.new("RGB", (9, 9)).save(folder.parent / "images" / "1.png"),
            "1.png is not of the size",
        ),
        (
            lambda folder: [p.unlink() for p in (folder / "grid" / "detections").iterdir()],
            "no detections in",
        ),
    ],
)
def test_what_is_not_at_hand_is_noted(evaluated, spoil, note):
    pictures, _ = evaluated("a", change=spoil)
    assert pictures["groups"] == []
    (reason,) = pictures["notes"]
    assert re.search(f"things_val: .*{note}", reason)


def test_data_sets_that_nothing_knows(tmp_path, write_evaluation, write_pictures):
    grid = write_evaluation(tmp_path / "a")
    write_pictures(tmp_path / "a", tmp_path / "images")
    (note,) = collect_pictures([tmp_path / "a" / "grid"], [grid], [["1.00x480"]])["notes"]
    assert "nothing here knows where the images are" in note


def test_classifiers_have_no_pictures(tmp_path, write_evaluation):
    grid = write_evaluation(tmp_path / "a", kinds=("class",))
    pictures = collect_pictures([tmp_path / "a" / "grid"], [grid], [["1.00x480"]])
    assert pictures["groups"] == [] and "pictures are of detections" in pictures["notes"][0]

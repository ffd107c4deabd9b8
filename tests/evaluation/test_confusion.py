"""Confusions: an object is found once, by its own class first, and crowds excuse."""

import dataclasses

import numpy as np
import pytest

from mutualnet_det.evaluation.confusion import Confusion, class_table, confusion_file
from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.results import GridRow
from mutualnet_det.runtime import Latency
from mutualnet_det.slimmable import OperatingPoint

CAT, DOG = 2**64 - 1, -5  # ids; a dog is class 0, for its id is the lower
CLASSES = ("dog", "cat, or 'tom'")
BOX, NEAR, FAR = [10, 10, 20, 20], [12, 10, 20, 20], [60, 60, 20, 20]


def confusion(objects, detections):
    """Of (category, box, is a crowd) and (category, box, score), all in one of two images."""
    truth = {
        "images": [{"id": 0}, {"id": 1}],
        "categories": [{"id": CAT, "name": CLASSES[1]}, {"id": DOG, "name": CLASSES[0]}],
        "annotations": [
            {"image_id": 1, "category_id": of, "bbox": box, "iscrowd": int(crowd)}
            for of, box, crowd in objects
        ],
    }
    found = [
        {"image_id": 1, "category_id": of, "bbox": box, "score": score}
        for of, box, score in detections
    ]
    return Confusion.of(truth, found)


@pytest.mark.parametrize(
    "objects, detections, counts",
    [
        ([], [], []),
        ([(CAT, BOX, 0)], [], [(1, 2)]),
        ([], [(DOG, BOX, 0.9)], [(2, 0)]),
        ([(CAT, BOX, 0)], [(CAT, NEAR, 0.5)], [(1, 1)]),
        ([(CAT, BOX, 0)], [(CAT, BOX, 0.49)], [(1, 2)]),
        ([(CAT, BOX, 0)], [(CAT, FAR, 0.9)], [(1, 2), (2, 1)]),
        ([(CAT, BOX, 0)], [(DOG, NEAR, 0.9)], [(1, 0)]),
        # Its own class comes first, whatever the score; an object is found once.
        ([(CAT, BOX, 0)], [(DOG, BOX, 0.9), (CAT, NEAR, 0.6)], [(1, 1), (2, 0)]),
        ([(CAT, BOX, 0)], [(CAT, BOX, 0.9), (CAT, BOX, 0.8)], [(1, 1), (2, 1)]),
        ([(CAT, BOX, 0), (DOG, NEAR, 0)], [(CAT, NEAR, 0.9)], [(1, 1), (0, 2)]),
        ([(CAT, BOX, 0), (CAT, NEAR, 0)], [(CAT, NEAR, 0.9), (CAT, BOX, 0.8)], [(1, 1), (1, 1)]),
        # A crowd excuses its own class alone, any number of times.
        ([(CAT, BOX, 1)], [(CAT, BOX, 0.9), (CAT, NEAR, 0.8), (DOG, BOX, 0.7)], [(2, 0)]),
    ],
)
def test_what_is_found_as_what(objects, detections, counts):
    expected = np.zeros((3, 3), int)
    for pair in counts:
        expected[pair] += 1
    result = confusion(objects, detections)
    assert result.classes == CLASSES
    np.testing.assert_array_equal(result.counts, expected)


def test_it_comes_back_from_its_file(tmp_path):
    made = confusion([(CAT, BOX, 0)], [(DOG, BOX, 0.9), (DOG, FAR, 0.8)])
    made.save(tmp_path / "confusion" / "a.csv")
    read = Confusion.load(tmp_path / "confusion" / "a.csv")
    assert read.classes == made.classes
    np.testing.assert_array_equal(read.counts, made.counts)


def test_the_table_of_classes(tmp_path):
    objects = [(CAT, BOX, 0), (CAT, FAR, 0), (CAT, [90, 0, 9, 9], 0)]
    found = [(CAT, BOX, 0.9), (DOG, FAR, 0.8), (DOG, [0, 90, 9, 9], 0.8)]
    row = GridRow(
        OperatingPoint(0.5, 64),
        Cost({"network": 1.0}, {}, 0, {"network": 10}),
        0.0,
        {"worker": Latency(5.0, 6.0)},
        {"box": {"AP": 12.0, "per_class": {CLASSES[0]: None, CLASSES[1]: 12.34}}, "mask": None},
    )
    confusion(objects, found).save(confusion_file(tmp_path, row.point))
    title, header, _, dog, cat, note = class_table(tmp_path, row).splitlines()
    assert title == "Classes at 0.50x64"
    names = ["class", "box AP", "objects", "found", "as another", "missed", "in vain"]
    assert [text for text in header.split("  ") if text.strip()] == names
    assert dog.split() == ["dog", "-", "0", "0", "0", "0", "1"]
    assert cat.split("  ")[0] == CLASSES[1] and "1 (1 as dog)" in cat
    assert cat.replace("(1 as dog)", "").split()[3:] == ["12.3", "3", "1", "1", "1", "0"]
    assert "score of 0.5" in note
    # Of other networks, and of grids that were evaluated before: the scores alone.
    semantic = {"semantic": {"mIoU": 7.0, "per_class": {"sky": 7.0}}}
    text = class_table(tmp_path / "else", dataclasses.replace(row, scores=semantic))
    assert text.splitlines()[1].split() == ["class", "mean", "IoU"] and "score" not in text
    classifier = dataclasses.replace(row, scores={"class": {"top1": 50.0}})
    assert class_table(tmp_path, classifier).endswith("all classes together.")

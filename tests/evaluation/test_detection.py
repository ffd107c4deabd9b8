"""A detector's evaluation says how many detections count, and what none could find."""

import logging

import pytest

from mutualnet_det.evaluation.detection import tell_limits


def objects(*counts):
    """So many in an image each, and a crowd."""
    return [
        {"image_id": image, "iscrowd": number == count, "num_keypoints": 1}
        for image, count in enumerate(counts)
        for number in range(count + 1)
    ]


@pytest.mark.parametrize(
    "counts, allowed, told, lost",
    [
        ((100, 3), 100, [], []),
        (
            (150, 3),
            300,
            ["150 objects, and COCO counts 100 detections: all that", "(300) count in box AP and"],
            [],
        ),
        ((150, 3), -1, ["box AP and mask AP"], []),
        (
            (150, 120),
            100,
            ["all that TEST.DETECTIONS_PER_IMAGE allows (100)", "beside as AP@100"],
            ["TEST.DETECTIONS_PER_IMAGE is 100", "70 of the 270 objects", "Raise it to 150."],
        ),
        ((5, 9), 4, [], ["has 9 objects: 6 of the 14 objects"]),
    ],
    ids=["COCO's own", "many", "no limit", "many, few allowed", "few allowed"],
)
def test_what_is_told(counts, allowed, told, lost, caplog):
    caplog.set_level(logging.INFO)
    tell_limits(objects(*counts), ["bbox", "segm"], allowed)
    for level, texts in (("INFO", told), ("WARNING", lost)):
        text = "\n".join(r.getMessage() for r in caplog.records if r.levelname == level)
        assert all(part in text for part in texts) and bool(text) is bool(texts)


def test_keypoints_have_a_limit_of_their_own(caplog):
    caplog.set_level(logging.INFO)
    tell_limits(objects(30), ["bbox", "keypoints"], 100)
    (record,) = caplog.records
    assert "30 objects, and COCO counts 20 detections: all" in record.getMessage()
    assert record.getMessage().endswith("AP@20.")

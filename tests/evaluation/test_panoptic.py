"""Panoptic quality, by hand and at its limits."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

from mutualnet_det.data.faults import DatasetError
from mutualnet_det.evaluation.panoptic import PanopticScorer, Segments, match_segments

NAME = "panoptic_by_hand"
CAT, DOG, SKY = (True, 0), (True, 1), (False, 1)


def segments(rows, categories, crowds=()):
    return Segments(np.array([list(map(int, row)) for row in rows]), categories, crowds)


@pytest.fixture
def scorer():
    MetadataCatalog.get(NAME).set(thing_classes=["cat", "dog"], stuff_classes=["things", "sky"])
    model = SimpleNamespace(
        combine_overlap_thresh=0.5, combine_stuff_area_thresh=2, combine_instances_score_thresh=0.5
    )
    yield PanopticScorer(model, NAME, ignored=255)
    MetadataCatalog.remove(NAME)


def test_the_same_is_perfect(scorer):
    one = segments(["1122", "1133"], {1: CAT, 2: CAT, 3: SKY})
    matches = match_segments(one, one)
    assert matches == [(*SKY, 1.0, 1, 0, 0), (*CAT, 2.0, 2, 0, 0)]
    scores = scorer.score([matches])
    assert all(scores[name] == 100 for name in ("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff"))
    assert scores["per_class"] == {"cat": 100, "sky": 100}


def test_by_hand(scorer):
    # The cat is found by 3 of its 4 pixels; the dog is taken for a cat; the sky has one too many.
    truth = segments(["11112222", "33333333"], {1: CAT, 2: DOG, 3: SKY})
    predicted = segments(["11132222", "33333333"], {1: CAT, 2: CAT, 3: SKY})
    matches = match_segments(truth, predicted)
    assert {(thing, index): rest for thing, index, *rest in matches} == {
        CAT: [3 / 4, 1, 1, 0],
        DOG: [0.0, 0, 0, 1],
        SKY: [8 / 9, 1, 0, 0],
    }
    scores = scorer.score([matches, matches])
    cat, sky = 0.75 / 1.5, 8 / 9
    assert scores["per_class"] == pytest.approx({"cat": 100 * cat, "dog": 0, "sky": 100 * sky})
    assert scores["PQ"] == pytest.approx(100 * (cat + sky) / 3)
    assert scores["PQ_things"] == pytest.approx(100 * cat / 2)
    assert scores["SQ"] == pytest.approx(100 * (0.75 + 8 / 9) / 3)
    assert scores["RQ"] == pytest.approx(100 * (1 / 1.5 + 1) / 3)


def test_half_an_overlap_is_no_match():
    truth, predicted = segments(["1100"], {1: CAT}), segments(["1000"], {1: CAT})
    assert match_segments(truth, predicted) == [(*CAT, 0.0, 0, 1, 1)]


def test_nothing_is_found_in_vain_where_nothing_is_known():
    truth = segments(["1110", "0000"], {1: CAT})
    assert match_segments(truth, segments(["1112", "2222"], {1: CAT, 2: DOG})) == [
        (*CAT, 1.0, 1, 0, 0)
    ]
    # Pixels outside all segments do not count in a union either.
    assert match_segments(truth, segments(["1111", "1111"], {1: CAT})) == [(*CAT, 1.0, 1, 0, 0)]


def test_a_crowd_is_neither_found_nor_missed():
    truth = segments(["111122"], {1: CAT, 2: DOG}, crowds=[1])
    assert match_segments(truth, segments(["113322"], {1: CAT, 2: DOG, 3: CAT})) == [
        (*DOG, 1.0, 1, 0, 0)
    ]
    # Of another category it excuses nothing.
    assert (*SKY, 0.0, 0, 1, 0) in match_segments(
        truth, segments(["113322"], {1: CAT, 2: DOG, 3: SKY})
    )


def test_outputs_are_combined_and_compared(scorer, tmp_path):
    stuff = np.ones((6, 8), np.uint8)
    stuff[:3, :4] = 0
    stuff[5] = 255
    Image.fromarray(stuff).save(tmp_path / "stuff.png")
    record = {
        "file_name": "a.jpg",
        "sem_seg_file_name": str(tmp_path / "stuff.png"),
        "annotations": [{"category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 3, 0, 3]]}],
    }
    instances = Instances((6, 8))
    instances.pred_boxes = Boxes(torch.tensor([[0.0, 0.0, 4.0, 3.0]] * 2))
    instances.scores = torch.tensor([0.9, 0.3])  # the second is too weak to count
    instances.pred_classes = torch.tensor([1, 0])
    instances.pred_masks = torch.as_tensor(np.stack([stuff == 0] * 2))
    matches = scorer.matches(instances, torch.ones(6, 8, dtype=torch.int64), record)
    assert matches == [(*SKY, 1.0, 1, 0, 0), (*DOG, 1.0, 1, 0, 0)]


def test_cocos_own_format(scorer, tmp_path):
    ids = np.array([[7, 7, 300], [7, 70000, 0]])
    colours = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    infos = [(7, 18, "0"), (300, 200, None), (70000, 17, True)]  # as tools write iscrowd
    annotation = {
        "file_name": "a.png",
        "segments_info": [
            {"id": id_, "category_id": category, "iscrowd": crowd} for id_, category, crowd in infos
        ],
    }
    MetadataCatalog.get(NAME).set(
        panoptic_root=str(tmp_path),
        thing_dataset_id_to_contiguous_id={17: 0, 18: 1},
        stuff_dataset_id_to_contiguous_id={17: 0, 18: 0, 200: 1},
    )
    scorer._annotations = {5: annotation}
    published = scorer._published({"image_id": 5})
    assert published.ids.tolist() == ids.tolist() and published.crowds == {70000}
    assert published.categories == {7: DOG, 300: SKY, 70000: CAT}


def test_the_files_of_the_ground_truth(scorer, tmp_path):
    """All of them: an evaluation is not continued on others."""
    records = [
        {"image_id": i, "file_name": f"{i}.jpg", "sem_seg_file_name": f"stuff/{i}.png"}
        for i in (3, 5)
    ]
    assert scorer.files(records) == ["stuff/3.png", "stuff/5.png"]
    json_file = tmp_path / "panoptic.json"
    known = [{"image_id": i, "file_name": f"{i}.png"} for i in (3, 4, 5)]
    json_file.write_text(json.dumps({"annotations": known}))
    MetadataCatalog.get(NAME).set(panoptic_json=str(json_file), panoptic_root="segments")
    published = PanopticScorer(scorer._model, NAME, ignored=255)
    assert published.files(records) == [
        *("stuff/3.png", "stuff/5.png", str(json_file), "segments/3.png", "segments/5.png")
    ]
    with pytest.raises(DatasetError, match=r"panoptic.json has no segments of 9.jpg"):
        published.files([{**records[0], "image_id": 9, "file_name": "9.jpg"}])


def test_nothing_at_all(scorer):
    scores = scorer.score([[], []])
    assert scores["PQ"] is None and scores["PQ_stuff"] is None and scores["per_class"] == {}

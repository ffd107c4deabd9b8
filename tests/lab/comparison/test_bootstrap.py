"""AP on resampled images, against pycocotools on data sets that hold them as many times."""

import copy

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_util

from mutualnet_det.evaluation.scoring import load_ground_truth, score
from mutualnet_det.lab.comparison import bootstrap
from mutualnet_det.lab.comparison.bootstrap import Bootstrap, resample


def duplicated(ground_truth, detections, counts):
    """The data set and the detections with as many copies of every image, each with its own id."""
    data = {"images": [], "annotations": [], "categories": ground_truth["categories"]}
    copies = []
    for image, count in zip(ground_truth["images"], counts, strict=True):
        for _ in range(count):
            new = {**image, "id": len(data["images"]) + 1}
            data["images"].append(new)
            for annotation in ground_truth["annotations"]:
                if annotation["image_id"] == image["id"]:
                    number = len(data["annotations"]) + 1
                    copied = {**annotation, "id": number, "image_id": new["id"]}
                    data["annotations"].append(copied)
            copies += [
                {**detection, "image_id": new["id"]}
                for detection in detections
                if detection["image_id"] == image["id"]
            ]
    return data, copies


def as_masks(detections):
    masks = []
    for detection in detections:
        x, y, width, height = detection["bbox"]
        polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
        (mask,) = mask_util.frPyObjects([polygon], 100, 100)
        masks.append({**detection, "segmentation": mask})
    return masks


@pytest.fixture
def with_crowds(ground_truth):
    """What is found in a crowd counts neither for nor against."""
    data = copy.deepcopy(ground_truth)
    for annotation in data["annotations"][::7]:
        annotation["iscrowd"] = 1
    return data


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_ap_of_a_resample_is_that_of_the_duplicated_data_set(with_crowds, find, iou_type):
    detections = find(0.9, 5)
    if iou_type == "segm":
        detections = as_masks(detections)
        for annotation in with_crowds["annotations"]:
            annotation["iscrowd"] = 0  # pycocotools wants run lengths of a crowd
    actual = Bootstrap(with_crowds, 8).ap(copy.deepcopy(detections), iou_type)
    expected = []
    for counts in resample(20, 8).tolist():
        data, copies = duplicated(with_crowds, detections, counts)
        expected.append(score(load_ground_truth(data, "pycocotools"), copies, iou_type)["AP"])
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert np.std(expected) > 1  # the resamples do differ


def test_resamples_draw_with_replacement_and_always_the_same():
    counts = resample(300, 200)
    assert (counts.sum(dim=1) == 300).all()
    assert torch.equal(counts, resample(300, 200))
    assert not torch.equal(counts[0], counts[1])
    # Of 300 draws with replacement, (1 - 1/300)^300 = 36.7 % of the images are in none.
    assert abs((counts == 0).double().mean() - 0.367) < 0.01


def test_nothing_found_and_nothing_to_find(ground_truth):
    assert (Bootstrap(ground_truth, 5).ap([], "bbox") == 0).all()
    # A category that a resample has no object of does not count; without any there is no AP.
    one = {**ground_truth, "annotations": ground_truth["annotations"][:1]}
    annotation = one["annotations"][0]
    right = [{key: annotation[key] for key in ("image_id", "category_id", "bbox")} | {"score": 1.0}]
    ap = Bootstrap(one, 30).ap(right, "bbox")
    drawn = resample(20, 30)[:, annotation["image_id"] - 1].numpy() > 0
    np.testing.assert_allclose(ap[drawn], 100)
    assert np.isnan(ap[~drawn]).all() and 0 < drawn.sum() < 30


def test_memory_is_bounded_without_a_change_of_results(with_crowds, find, monkeypatch):
    whole = Bootstrap(with_crowds, 8).ap(find(0.9, 5), "bbox")
    sizes = []
    mean_ap = bootstrap._mean_ap

    def noting(groups, counts, recalls):
        sizes.append(len(counts))
        return mean_ap(groups, counts, recalls)

    monkeypatch.setattr(bootstrap, "_mean_ap", noting)
    monkeypatch.setattr(bootstrap, "BLOCK", 1000)
    np.testing.assert_array_equal(Bootstrap(with_crowds, 8).ap(find(0.9, 5), "bbox"), whole)
    assert sum(sizes) == 8 and max(sizes) < 8

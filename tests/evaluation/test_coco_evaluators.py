"""Both evaluators find the same, whatever the data: ids, crowds, empty images, many objects."""

import copy

import numpy as np
import pytest

from mutualnet_det.data.masks import decoded, run_lengths
from mutualnet_det.evaluation.coco_evaluators import EVALUATORS
from mutualnet_det.evaluation.scoring import only

SIZE = (96, 128)  # height, width in px
NUM_KEYPOINTS = 17
TYPES = ("bbox", "segm", "keypoints")
# Objects of a category in an image; COCO counts 20 with keypoints, 100 without.
FEW = (0, 1, 4, 10)
MANY = (21, 101)

# By the kind of ids, N of them in rising order.
IDS = {
    "from 1": lambda rng, n: list(range(1, n + 1)),
    "from 0": lambda rng, n: list(range(n)),
    "negative": lambda rng, n: sorted((-rng.permutation(10 * n)[:n]).tolist()),
    "64 bits": lambda rng, n: sorted(rng.integers(2**62, 2**64, n, dtype=np.uint64).tolist()),
    "128 bits": lambda rng, n: sorted(2**127 + rng.permutation(10 * n)[:n].astype(object)),
    "texts": lambda rng, n: sorted(f"{i:08x}" for i in rng.permutation(1000 * n)[:n]),
}


def polygon(box):
    x, y, w, h = map(float, box)
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def compressed(box):
    return run_lengths(polygon(box), *SIZE)


def uncompressed(box):
    flat = decoded(polygon(box), *SIZE).flatten(order="F")
    starts = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *starts, flat.size]).tolist()
    return {"size": list(SIZE), "counts": [0, *counts] if flat[0] else counts}


def as_text(rle):
    return {**rle, "counts": rle["counts"].decode()}


def random_box(rng):
    w, h = (int(v) for v in rng.choice([3, 8, 32, 40, 90], 2))  # 32 x 32: at the border of "small"
    return [int(rng.integers(SIZE[1] - w)), int(rng.integers(SIZE[0] - h)), w, h]


def keypoints_in(box, rng):
    x, y, w, h = box
    return np.stack([x + w * rng.random(NUM_KEYPOINTS), y + h * rng.random(NUM_KEYPOINTS)], axis=1)


def random_annotation(rng, image_id, category_id):
    box = random_box(rng)
    crowd = int(rng.random() < 0.15)
    flags = rng.integers(0, 3, NUM_KEYPOINTS) * (not crowd) * (rng.random() > 0.2)
    points = np.column_stack([keypoints_in(box, rng), flags])
    masks = polygon(box), uncompressed(box), as_text(compressed(box))
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": crowd,
        "segmentation": masks[rng.integers(len(masks))],
        "keypoints": points.reshape(-1).tolist(),
        "num_keypoints": int((flags > 0).sum()),
    }


def random_detection(rng, image_id, category_id, box):
    moved = [float(v + d) for v, d in zip(box, rng.normal(0, 1.5, 4), strict=True)]
    moved[2:] = [max(v, 1.0) for v in moved[2:]]
    points = np.column_stack([keypoints_in(box, rng), np.ones(NUM_KEYPOINTS)])
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": moved,
        "score": round(float(rng.random()), 1),  # many are equal
        "segmentation": as_text(compressed(moved)),
        "keypoints": points.reshape(-1).tolist(),
    }


def random_data(seed):
    """A ground truth and detections: crowds, many objects, images and categories without any."""
    rng = np.random.default_rng(seed)
    num_images, num_categories = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    images, categories = range(1, num_images + 1), range(1, num_categories + 1)
    annotations, detections = [], []
    for image in images:
        for category in categories:
            many = seed % 4 == 0 and (image, category) == (1, 1)
            for _ in range(MANY[seed // 4 % len(MANY)] if many else int(rng.choice(FEW))):
                annotation = random_annotation(rng, image, category)
                annotations.append({"id": len(annotations) + 1, **annotation})
                for _ in range(rng.integers(3)):
                    of = category if rng.random() < 0.9 else int(rng.choice(categories))
                    detections.append(random_detection(rng, image, of, annotation["bbox"]))
            if rng.random() < 0.3:  # found where nothing is
                detections.append(random_detection(rng, image, category, random_box(rng)))
    truth = {
        "images": [{"id": id_, "height": SIZE[0], "width": SIZE[1]} for id_ in images],
        "categories": [{"id": id_, "name": f"class {id_}"} for id_ in categories],
        "annotations": annotations,
    }
    return truth, detections


def with_other_ids(truth, detections, kind, rng):
    """The same data under ids of another kind, its records in any order."""
    truth, detections = copy.deepcopy((truth, detections))
    for part, key in (("images", "image_id"), ("categories", "category_id")):
        ids = IDS[kind](rng, len(truth[part]))
        for record in truth[part]:
            record["id"] = ids[record["id"] - 1]
        for record in (*truth["annotations"], *detections):
            record[key] = ids[record[key] - 1]
        rng.shuffle(truth[part])
    ids = IDS[kind](rng, len(truth["annotations"]))
    for record, id_ in zip(truth["annotations"], rng.permutation(len(ids)), strict=True):
        record["id"] = ids[id_]
    return truth, detections


@pytest.mark.parametrize("seed", range(24))
def test_both_find_the_same_under_any_ids(seed):
    rng = np.random.default_rng(seed)
    truth, detections = random_data(seed)
    kind = list(IDS)[seed % len(IDS)]
    renamed, renamed_detections = with_other_ids(truth, detections, kind, rng)
    for iou_type in TYPES:
        if iou_type == "keypoints" and len(truth["annotations"]) > 100:
            continue  # pycocotools takes seconds
        expected = None
        for data, found in ((truth, detections), (renamed, renamed_detections)):
            for evaluator in EVALUATORS.values():
                results = copy.deepcopy(list(only(iou_type, found)))
                precision = evaluator(data).precision(results, iou_type, ())
                if expected is None:
                    expected = precision
                np.testing.assert_array_equal(precision, expected)

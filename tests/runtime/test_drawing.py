"""Drawing: what stands in the picture, at any size of the image."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import ImageDraw

from mutualnet_det.runtime import Prediction, QueryEntry
from mutualnet_det.runtime.drawing import caption, class_colour, draw_detections
from mutualnet_det.slimmable import OperatingPoint

GREY = 128
ORANGE, BLUE = (230, 159, 0), (86, 180, 233)  # Okabe and Ito's


def grey(height=500, width=600):
    return np.full((height, width, 3), GREY, np.uint8)


def instances_on(image, boxes, scores=None, classes=None, **fields):
    instances = Instances(image.shape[:2])
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    count = len(boxes)
    instances.scores = torch.tensor([0.9] * count if scores is None else scores)
    instances.pred_classes = torch.tensor([0] * count if classes is None else classes).long()
    for name, value in fields.items():
        instances.set(name, value)
    return instances


def masks_of(image, box):
    masks = torch.zeros(1, *image.shape[:2], dtype=torch.bool)
    left, top, right, bottom = box
    masks[0, top:bottom, left:right] = True
    return masks


@pytest.fixture
def written(monkeypatch):
    """Texts and their places (left, top, right, bottom) in the order they are drawn."""
    texts = []
    original = ImageDraw.ImageDraw.text

    def text(self, xy, text, fill, font, anchor):
        texts.append((text, self.textbbox(xy, text, font, anchor)))
        return original(self, xy, text, fill, font, anchor=anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return texts


def test_a_box_has_the_colour_of_its_class():
    image = grey()
    picture = draw_detections(image, instances_on(image, [[100, 100, 300, 300]], classes=[1]))
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert tuple(picture[200, 100]) == tuple(picture[299, 250]) == BLUE == class_colour(1)
    assert (picture[150:250, 150:250] == GREY).all()
    assert (image == GREY).all()


def test_colours_of_many_classes_differ():
    assert class_colour(0) == ORANGE
    assert len({class_colour(index) for index in range(80)}) == 80


def test_a_mask_is_tinted_and_its_rim_drawn():
    image, box = grey(), (100, 100, 300, 300)
    masks = masks_of(image, (120, 140, 280, 260))
    picture = draw_detections(image, instances_on(image, [box], pred_masks=masks))
    tint = tuple(int(0.6 * GREY + 0.4 * colour) for colour in ORANGE)
    assert tuple(picture[200, 200]) == tint
    assert tuple(picture[200, 120]) == tuple(picture[259, 200]) == ORANGE
    assert tuple(picture[130, 200]) == (GREY,) * 3


def test_only_what_is_sure_enough_is_drawn(written):
    image = grey()
    boxes = [[100, 100, 200, 200], [300, 300, 400, 400]]
    instances = instances_on(image, boxes, [0.6, 0.59], [0, 1])
    picture = draw_detections(image, instances, ["cat", "dog"], min_score=0.595)
    assert [text for text, _ in written] == ["cat 60"]
    assert (picture[250:] == GREY).all()


def test_nothing_found():
    image = grey()
    for masks in ({}, {"pred_masks": torch.zeros(0, 500, 600, dtype=torch.bool)}):
        assert np.array_equal(draw_detections(image, instances_on(image, [], **masks)), image)
    image = grey(100, 160)
    fields = {
        "pred_masks": torch.zeros(0, 100, 160, dtype=torch.bool),
        "pred_keypoints": torch.zeros(0, 17, 3),
    }
    assert (draw_detections(image, instances_on(image, [], **fields)) == grey(300, 480)).all()


def test_a_class_without_a_name_has_its_number(written):
    image = grey()
    draw_detections(image, instances_on(image, [[100, 100, 300, 300]], classes=[5]), ["cat"])
    assert written[0][0] == "class 5 90"


def overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_names_do_not_cover_each_other(written):
    """Of many objects in one place; those of the highest scores keep theirs."""
    image = grey()
    random = np.random.default_rng(0)
    corners = random.uniform(150, 260, (40, 2))
    boxes = np.concatenate([corners, corners + random.uniform(40, 120, (40, 2))], 1)
    scores = np.linspace(0.5, 0.99, 40)
    draw_detections(image, instances_on(image, boxes.tolist(), scores.tolist()), text=["0.50x64"])
    labels = [text for text, _ in written[1:]]
    assert written[0][0] == "0.50x64" and 5 < len(labels) < 40
    assert labels[:2] == ["class 0 99", "class 0 98"]
    for index, (_, one) in enumerate(written):
        assert not any(overlap(one, other) for _, other in written[:index])
        assert one[0] >= 0 and one[1] >= 0 and one[2] <= 600 and one[3] <= 500


def test_two_names_of_one_box_both_find_room(written):
    image = grey()
    box = [100, 100, 300, 300]
    draw_detections(image, instances_on(image, [box, box], classes=[0, 1]), ["cat", "dog"])
    assert sorted(text for text, _ in written) == ["cat 90", "dog 90"]


def test_the_text_is_broken_where_there_is_no_room(written):
    parts = ("0.50x128", "0.564 of 0.6 GFLOPs", "41 of 50 ms")
    for image, lines in ((grey(), 1), (grey(600, 100), 3)):
        written.clear()
        draw_detections(image, instances_on(image, []), text=parts)
        assert len(written) == lines
        assert " ".join(text for text, _ in written).split() == " ".join(parts).split()
        assert all(place[2] <= image.shape[1] for _, place in written)


def test_lines_and_letters_grow_with_the_image(written):
    sizes = []
    for side in (500, 4000):
        image = grey(side, side)
        instances = instances_on(image, [[0.25 * side, 0.5 * side, 0.75 * side, 0.75 * side]])
        picture = draw_detections(image, instances)
        row = picture[int(0.6 * side), : side // 2]
        thickness = (row == class_colour(0)).all(1).sum()
        sizes.append((thickness, written[-1][1][3] - written[-1][1][1]))
    (thin, small), (thick, large) = sizes
    assert thin >= 1 and thick >= 5 * thin and large > 6 * small


def test_a_small_image_is_enlarged():
    image = grey(100, 160)
    box = (40, 20, 120, 80)
    masks = masks_of(image, (60, 30, 100, 70))
    points = torch.tensor([[[80.0, 50.0, 1.0]]])
    instances = instances_on(image, [box], pred_masks=masks, pred_keypoints=points)
    picture = draw_detections(image, instances)
    assert picture.shape == (300, 480, 3)
    assert tuple(picture[150, 120]) == tuple(picture[150, 180]) == ORANGE  # box and mask
    assert tuple(picture[150, 240]) == ORANGE  # the key point


def test_hidden_key_points_are_not_drawn():
    image = grey()
    points = torch.tensor([[[150.0, 200.0, 0.9], [250.0, 200.0, 0.01]]])
    picture = draw_detections(
        image, instances_on(image, [[100, 100, 300, 300]], pred_keypoints=points)
    )
    assert tuple(picture[200, 150]) == ORANGE
    assert tuple(picture[200, 250]) == (GREY,) * 3


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (30_000, 1), (1, 30_000)])
def test_extreme_sizes(size):
    image = grey(*size)
    height, width = size
    masks = masks_of(image, (0, 0, width, height))
    instances = instances_on(image, [(0, 0, width, height)], pred_masks=masks)
    picture = draw_detections(image, instances, ["cat"], text=["0.50x128", "41 ms"])
    assert picture.shape[0] * width == picture.shape[1] * height
    assert (picture != GREY).any()


def test_what_the_text_says():
    point = OperatingPoint(0.5, 128)
    listed = Prediction(point, QueryEntry(point, 0.5643, box_ap=5.7), {})
    assert caption(listed, 0.0412) == ("0.50x128", "0.564 GFLOPs", "41.2 ms")
    assert caption(listed, 0.0412, gflops=0.6)[1:] == ("0.564 of 0.6 GFLOPs", "41.2 ms")
    assert caption(listed, 1.2345, milliseconds=40)[1:] == ("0.564 GFLOPs", "1234 of 40 ms")
    assert caption(Prediction(point, None, {}), 0.0412) == ("0.50x128", "41.2 ms")

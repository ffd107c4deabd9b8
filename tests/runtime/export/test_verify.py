"""The comparison of an export with its source: what it lets pass, and what not."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from mutualnet_det.runtime.export import Agreement, ExportError

SIZE = (100, 200)


def detections(boxes, scores, classes, masks=None, keypoints=None):
    """Detections at half of the scale of an image of 200 x 100 px."""
    instances = Instances((50, 100))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if masks is not None:
        instances.pred_masks = masks
    if keypoints is not None:
        instances.pred_keypoints = keypoints
    return instances


BOXES = [[10, 10, 30, 30], [50, 10, 80, 40], [10, 10, 31, 30]]


def compare(expected, actual, most=100):
    agreement = Agreement(threshold=0.5, most=most)
    agreement.compare("a.jpg", expected, actual, SIZE)
    return agreement


def source():
    return detections(BOXES, [0.9, 0.8, 0.7], [0, 0, 1])


def test_the_same_in_another_order_agrees():
    reordered = detections(BOXES[::-1], [0.7, 0.8, 0.9], [1, 0, 0])
    agreement = compare(source(), reordered)
    assert (agreement.images, agreement.detections) == (1, 3)
    assert (agreement.box, agreement.score, agreement.mask_iou) == (0, 0, None)


def test_differences_are_of_the_image_on_disk():
    boxes = [[10.04, 10, 30, 30], *BOXES[1:]]
    agreement = compare(source(), detections(boxes, [0.9, 0.8, 0.7005], [0, 0, 1]))
    assert agreement.box == pytest.approx(0.08, abs=1e-4)
    assert agreement.score == pytest.approx(0.0005, abs=1e-6)


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (
            detections([[10.06, 10, 30, 30], *BOXES[1:]], [0.9, 0.8, 0.7], [0, 0, 1]),
            r"a\.jpg: the detection of class 0, score 0\.9000, box .*: its box is 0\.12 px off",
        ),
        (
            detections(BOXES, [0.9, 0.8, 0.7015], [0, 0, 1]),
            r"class 1, score 0\.7000.*: its score is 0\.0015 off; allowed is 0\.001",
        ),
        (
            detections(BOXES[:2], [0.9, 0.8], [0, 0]),
            "the export does not find the detection of class 1, score 0.7000",
        ),
        (
            detections(BOXES, [0.9, 0.8, 0.7], [0, 0, 2]),
            "the export does not find the detection of class 1",
        ),
        (
            detections([*BOXES, [0, 0, 5, 5]], [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 0]),
            "only the export finds the detection of class 0, score 0.6000",
        ),
        (detections([], [], []), "the export does not find the detection of class 0, score 0.9"),
    ],
)
def test_differences_that_are_not_allowed(actual, message):
    with pytest.raises(ExportError, match=message):
        compare(source(), actual)


def test_what_is_at_the_threshold_may_come_or_go():
    near = detections([*BOXES, [0, 0, 5, 5]], [0.9, 0.8, 0.7, 0.5008], [0, 0, 1, 0])
    assert compare(source(), near).detections == 3
    assert compare(near, source()).detections == 3
    far = detections([*BOXES, [0, 0, 5, 5]], [0.9, 0.8, 0.7, 0.5012], [0, 0, 1, 0])
    with pytest.raises(ExportError, match="only the export finds"):
        compare(source(), far)


def test_so_may_the_last_where_there_are_as_many_as_there_may_be():
    other = detections([*BOXES[:2], [0, 0, 5, 5]], [0.9, 0.8, 0.7004], [0, 0, 1])
    assert compare(source(), other, most=3).detections == 2
    with pytest.raises(ExportError):
        compare(source(), other, most=4)


def test_nothing_agrees_with_nothing():
    agreement = compare(detections([], [], []), detections([], [], []))
    assert (agreement.images, agreement.detections) == (1, 0)


def test_masks():
    masks = torch.zeros(1, 1, 28, 28)
    masks[..., :14] = 0.9
    one = detections([[10, 10, 38, 38]], [0.9], [0], masks)
    assert compare(one, detections([[10, 10, 38, 38]], [0.9], [0], masks)).mask_iou == 1
    # 14 columns of 28 cover 28 of 56 px; one more, 30.
    wider = masks.clone()
    wider[..., 14] = 0.9
    with pytest.raises(ExportError, match=r"its mask has an IoU of 0\.93\d\d; allowed is 0\.99"):
        compare(one, detections([[10, 10, 38, 38]], [0.9], [0], wider))
    nothing = torch.zeros(1, 1, 28, 28)
    empty = detections([[10, 10, 38, 38]], [0.9], [0], nothing)
    assert compare(empty, empty).mask_iou == 1


def test_keypoints():
    points = torch.rand(1, 3, 3) * 20
    moved = points.clone()
    moved[0, 0, 0] += 0.06
    one = detections([BOXES[0]], [0.9], [0], keypoints=points.clone())
    with pytest.raises(ExportError, match=r"a keypoint is 0\.12 px off"):
        compare(one, detections([BOXES[0]], [0.9], [0], keypoints=moved))

"""MutualRetinaNet: equal to a plain network, and its losses."""

import pytest
import torch
from detectron2.modeling import build_anchor_generator, build_model
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, pairwise_iou

from mutualnet_det.config import LOSS_TERMS
from mutualnet_det.data.coco import check_datasets
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.views import view_at
from mutualnet_det.modeling import retinanet
from mutualnet_det.slimmable import OperatingPoint, SlimmableLayer, at_width

TINY = [
    *("MODEL.RETINANET.NUM_CONVS", 2, "MODEL.RETINANET.NUM_CLASSES", 3),
    *("TEST.DETECTIONS_PER_IMAGE", 10),
    # Half of COCO's anchors.
    "MODEL.ANCHOR_GENERATOR.SIZES",
    [[16 * 2**level * 2 ** (step / 3) for step in range(3)] for level in range(5)],
]


@pytest.fixture
def dense_cfg(make_small_cfg):
    """The COCO config of RetinaNet, small: 3 classes."""
    return make_small_cfg("mutual_retinanet_mbv2", TINY)


@pytest.fixture
def build_plain_retinanet(build_plain_fpn):
    """``build_plain_retinanet(cfg, width)``: Detectron2's RetinaNet over ``build_plain_fpn``."""

    def build(cfg, width):
        backbone = build_plain_fpn(cfg, width, lambda c: LastLevelP6P7(c, c, in_feature="p5"))
        node = cfg.MODEL.RETINANET
        shapes = [backbone.output_shape()[name] for name in node.IN_FEATURES]
        return RetinaNet(
            backbone=backbone,
            head=RetinaNetHead(cfg, shapes),
            head_in_features=node.IN_FEATURES,
            anchor_generator=build_anchor_generator(cfg, shapes),
            box2box_transform=Box2BoxTransform(weights=node.BBOX_REG_WEIGHTS),
            anchor_matcher=Matcher(
                node.IOU_THRESHOLDS, node.IOU_LABELS, allow_low_quality_matches=True
            ),
            num_classes=node.NUM_CLASSES,
            smooth_l1_beta=node.SMOOTH_L1_LOSS_BETA,
            max_detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
        ).eval()

    return build


def inputs_at(resolution, training_batch):
    view = view_at(training_batch(), resolution, 128)
    return [{"image": x["image"], "height": 100, "width": 150} for x in view]


def outputs(model, inputs):
    """Everything a RetinaNet computes, from features to detections, by name."""
    features = model.backbone(model.preprocess_image(inputs).tensor)
    logits, deltas = model.head([features[name] for name in model.head_in_features])
    tensors = {
        **features,
        **{f"logits {k}": x for k, x in enumerate(logits)},
        **{f"deltas {k}": x for k, x in enumerate(deltas)},
    }
    for index, result in enumerate(model(inputs)):
        instances = result["instances"]
        tensors |= {
            f"boxes {index}": instances.pred_boxes.tensor,
            f"scores {index}": instances.scores,
            f"classes {index}": instances.pred_classes,
        }
    return tensors


# A slimmable network against a plain one ---------------------------------------------------------


@pytest.mark.parametrize("width", [0.25, 0.7, 1.0])
@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
def test_equals_a_plain_network_of_that_width(
    dense_cfg, build_random, build_plain_retinanet, beside_plain, training_batch, scope, width
):
    dense_cfg.MUTUALNET.SCOPE = scope
    model, plain = build_random(dense_cfg), build_plain_retinanet(dense_cfg, width)
    assert not any(isinstance(module, SlimmableLayer) for module in plain.modules())
    inputs = inputs_at(48, training_batch)
    actual, expected = beside_plain(
        model, plain, OperatingPoint(width, 48), inputs[::-1], lambda x: outputs(x, inputs)
    )
    assert len(expected["boxes 0"]) > 0
    for name, tensor in expected.items():
        assert actual[name].shape == tensor.shape, name
        # Boxes are in px, of images of 100 x 150 px.
        limit = 1e-3 if name.startswith("boxes") else 1e-4
        assert (actual[name] - tensor).abs().max() < limit, name


@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
def test_state_dict_is_detectron2s(dense_cfg, build_plain_retinanet, scope):
    expected = build_plain_retinanet(dense_cfg, 1.0).state_dict()
    dense_cfg.MUTUALNET.SCOPE = scope
    model = build_model(dense_cfg)
    model.load_state_dict(expected, strict=True)
    slims = {isinstance(m, SlimmableLayer) for m in model.head.modules() if hasattr(m, "weight")}
    assert slims == {scope == "heads"}


@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
def test_extra_levels_hang_on_the_pyramid(dense_cfg, scope):
    dense_cfg.MUTUALNET.SCOPE = scope
    backbone = build_model(dense_cfg).backbone
    with at_width(backbone, 0.25):
        features = backbone(torch.randn(1, 3, 128, 128))
        torch.testing.assert_close(features["p6"], backbone.top_block.p6(features["p5"]))
    count = 8 if scope == "heads" else 32
    assert {x.shape[1] for x in features.values()} == {count}
    assert features["p7"].shape[-2:] == (1, 1)


def test_widths_above_one(dense_cfg, training_batch):
    dense_cfg.MUTUALNET.WIDTH_RANGE = (0.5, 1.6)
    model = build_model(dense_cfg).eval()
    assert model.head.cls_score.in_channels == 48  # 51.2, rounded
    assert len(model(inputs_at(48, training_batch))) == 2


@pytest.mark.parametrize("norm", ["BN", "GN"])
def test_norm_that_cannot_slim_is_an_error(dense_cfg, norm):
    dense_cfg.MODEL.RETINANET.NORM = norm
    with pytest.raises(ValueError, match=f"MODEL.RETINANET.NORM is '{norm}'.*takes ''"):
        build_model(dense_cfg)
    dense_cfg.MUTUALNET.SCOPE = "neck"
    build_model(dense_cfg)


def test_rotated_anchors_are_an_error(dense_cfg):
    dense_cfg.MODEL.ANCHOR_GENERATOR.NAME = "RotatedAnchorGenerator"
    with pytest.raises(ValueError, match="ANCHOR_GENERATOR.NAME builds a RotatedAnchorGenerator"):
        build_model(dense_cfg)


# What a student learns ---------------------------------------------------------------------------


def weigh(cfg, **weights):
    """Losses of those weights; of weight 0 are the others."""
    for name in LOSS_TERMS["MutualRetinaNet"]:
        cfg.MUTUALNET.LOSS_WEIGHTS[name] = float(weights.get(name, 0))


@pytest.mark.parametrize("term", ["CLASS", "BOX"])
@pytest.mark.parametrize("resolution", [64, 48, 32])
def test_student_gets_a_gradient_and_the_teacher_none(
    dense_cfg, build_random, training_batch, run, term, resolution
):
    weigh(dense_cfg, **{term: 1})
    model = build_random(dense_cfg).train()
    batch = training_batch()
    _, teacher = run(model.teach, view_at(batch, 64, 128))
    assert not teacher.class_logits.requires_grad and not teacher.boxes.requires_grad
    with at_width(model, 0.25):
        losses = run(model.study, view_at(batch, resolution, 128), teacher)
        assert set(losses) == {f"loss_distill_{term.lower()}"}
        (loss,) = losses.values()
        assert loss > 0
        loss.backward()
    name = "cls_score" if term == "CLASS" else "bbox_pred"
    gradient = getattr(model.head, name).weight.grad
    assert gradient[:, :8].abs().max() > 0
    assert gradient[:, 8:].abs().max() == 0  # what the full network has beside
    assert model.backbone.bottom_up.features[0][0].weight.grad.abs().max() > 0


def test_nothing_to_learn_where_they_agree(dense_cfg, build_random, training_batch, run):
    model = build_random(dense_cfg).train()
    batch = training_batch()
    _, teacher = run(model.teach, batch)
    losses = run(model.study, batch, teacher)
    assert losses["loss_distill_class"] < 1e-6 and losses["loss_distill_box"] < 1e-4
    with at_width(model, 0.25):
        losses = run(model.study, batch, teacher)
    assert losses["loss_distill_class"] > 1e-2 and losses["loss_distill_box"] > 1e-2


@pytest.fixture
def predictions_of(make_anchors):
    """
    ``predictions_of(model, size, boxes, score)``: a student in complete agreement on one image of a
    size: each anchor with the same logits, and with the deltas that lead to one of ``boxes``
    (B, 4), which are at the student's scale.
    """

    def make(model, size, boxes, score):
        grids, anchors = make_anchors(model.anchor_generator, size)
        nearest = [pairwise_iou(x, Boxes(boxes)).argmax(dim=1) for x in anchors]
        deltas = [
            model.box2box_transform.get_deltas(x.tensor, boxes[index])[None]
            for x, index in zip(anchors, nearest, strict=True)
        ]
        logits = [torch.full((1, len(x), 3), score) for x in anchors]
        return retinanet.DensePredictions([size], grids, anchors, logits, deltas)

    return make


@pytest.mark.parametrize("size", [(300, 451), (480, 721)])
def test_boxes_and_scores_are_taught_at_the_students_scale(dense_cfg, predictions_of, size):
    model, full_size = build_model(dense_cfg), (600, 903)
    boxes = torch.tensor([[30.0, 40, 60, 90]])
    student = predictions_of(model, size, boxes, -1.0)
    full = predictions_of(model, full_size, boxes, -1.0)
    ratio = torch.tensor([full_size[1] / size[1], full_size[0] / size[0]] * 2)
    num_anchors = sum(len(x) for x in full.anchors)
    teacher = retinanet.DenseTeacher(
        [full_size],
        full.grid_sizes,
        torch.cat(full.class_logits, dim=1),
        (boxes * ratio).expand(1, num_anchors, 4),
    )
    labels = [torch.zeros(sum(len(x) for x in student.anchors), dtype=torch.long)]  # all positive
    losses = model._distillation_losses(student, labels, teacher)
    assert losses["loss_distill_class"] == 0 and losses["loss_distill_box"] < 1e-4
    # A box at the teacher's scale would be wrong, and so would one scaled by the short sides.
    teacher.boxes = teacher.boxes + torch.tensor([0.0, 0, 1.5, 0])
    assert model._distillation_losses(student, labels, teacher)["loss_distill_box"] > 1e-3


def test_scores_are_taught_by_size_not_by_level(dense_cfg, predictions_of):
    model, size, full_size = build_model(dense_cfg), (128, 192), (256, 384)
    box = torch.tensor([[10.0, 10, 40, 50]])
    student = predictions_of(model, size, box, -5.0)
    full = predictions_of(model, full_size, box, -5.0)
    # The full network is sure of one class at one anchor of its second level.
    full.class_logits[1][0, 100, 2] = 5.0
    logits = torch.cat(full.class_logits, dim=1)
    teacher = retinanet.DenseTeacher(
        [full_size], full.grid_sizes, logits, torch.ones(*logits.shape[:2], 4)
    )
    labels = [torch.full((sum(len(x) for x in student.anchors),), 3)]

    def loss():
        return model._distillation_losses(student, labels, teacher)["loss_distill_class"]

    torch.testing.assert_close(full.anchors[1][100].tensor, 2 * student.anchors[0][100].tensor)
    assert loss() > 1
    student.class_logits[0][0, 100, 2] = 5.0
    assert loss() == 0
    student.class_logits[1][0, 100, 2] = 5.0
    assert loss() > 1


def test_anchors_larger_than_the_teachers_have_no_teacher(dense_cfg, predictions_of):
    model, size, full_size = build_model(dense_cfg), (128, 192), (512, 768)
    box = torch.tensor([[10.0, 10, 40, 50]])
    student = predictions_of(model, size, box, 0.0)
    full = predictions_of(model, full_size, box, 0.0)
    logits = torch.cat(full.class_logits, dim=1)
    teacher = retinanet.DenseTeacher(
        [full_size], full.grid_sizes, logits, torch.ones(*logits.shape[:2], 4)
    )
    labels = [torch.full((sum(len(x) for x in student.anchors),), 3)]
    student.class_logits[-1][:] = 5.0  # of 256 px and more: four times as much at full resolution
    assert model._distillation_losses(student, labels, teacher)["loss_distill_class"] == 0
    student.class_logits[0][:] = 5.0
    assert model._distillation_losses(student, labels, teacher)["loss_distill_class"] > 1


def test_padding_does_not_count(dense_cfg, predictions_of):
    model, size, full_size = build_model(dense_cfg), (60, 90), (120, 180)
    student = predictions_of(model, size, torch.tensor([[10.0, 10, 40, 50]]), 0.0)
    full = predictions_of(model, full_size, torch.tensor([[20.0, 20, 80, 100]]), 1.0)
    teacher = retinanet.DenseTeacher(
        [full_size],
        full.grid_sizes,
        torch.cat(full.class_logits, dim=1),
        torch.ones(1, sum(len(x) for x in full.anchors), 4),
    )
    labels = [torch.full((sum(len(x) for x in student.anchors),), 3)]
    expected = model._distillation_losses(student, labels, teacher)["loss_distill_class"]
    for predictions, (height, width) in ((student, size), (full, full_size)):
        for anchors, logits in zip(predictions.anchors, predictions.class_logits, strict=True):
            x, y = anchors.get_centers().unbind(1)
            logits[0, (x >= width) | (y >= height)] = 50.0
    teacher.class_logits = torch.cat(full.class_logits, dim=1)
    assert expected > 0
    assert model._distillation_losses(student, labels, teacher)["loss_distill_class"] == expected


def test_losses_are_weighted_and_left_out_at_zero(dense_cfg, build_random, training_batch, run):
    batch = training_batch()

    def losses(**weights):
        weigh(dense_cfg, **weights)
        model = build_random(dense_cfg).train()
        _, teacher = run(model.teach, batch)
        with at_width(model, 0.5):
            return run(model.study, batch, teacher)

    single = losses(GROUND_TRUTH=1, CLASS=1, BOX=1)
    names = {"loss_cls", "loss_box_reg", "loss_distill_class", "loss_distill_box"}
    assert set(single) == names
    weighted = losses(GROUND_TRUTH=2, CLASS=3, BOX=4)
    factors = {"loss_distill_class": 3, "loss_distill_box": 4}
    for name, loss in single.items():
        torch.testing.assert_close(weighted[name], factors.get(name, 2) * loss)
    assert set(losses(GROUND_TRUTH=1)) == {"loss_cls", "loss_box_reg"}


def test_full_network_learns_detectron2s_losses(
    dense_cfg, build_random, build_plain_retinanet, training_batch, run
):
    model = build_random(dense_cfg).train()
    plain = build_plain_retinanet(dense_cfg, 1.0).train()
    plain.load_state_dict(model.state_dict(), strict=True)
    batch = training_batch()
    losses, _ = run(model.teach, batch)
    again, _ = run(model.teach, batch)
    expected = run(plain, batch)
    with torch.no_grad():
        features = plain.backbone(plain.preprocess_image(batch).tensor)
        anchors = plain.anchor_generator([features[f] for f in plain.head_in_features])
        labels, _ = plain.label_anchors(anchors, [x["instances"] for x in batch])
    num_positive = sum(int(((x >= 0) & (x < 3)).sum()) for x in labels)
    # Detectron2 divides by an average of that number that starts from 100.
    divisor = 0.9 * 100 + 0.1 * num_positive
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name], loss * divisor / num_positive)
        assert again[name] == losses[name]  # nothing is left over from the pass before


@pytest.mark.parametrize("objects", [(0, 0), (2, 0)])
def test_images_without_objects(dense_cfg, build_random, training_batch, run, objects):
    model = build_random(dense_cfg).train()
    batch = training_batch(objects=objects)
    losses, teacher = run(model.teach, batch)
    assert all(loss.isfinite() for loss in losses.values())
    with at_width(model, 0.25):
        losses = run(model.study, view_at(batch, 48, 128), teacher)
        assert all(loss.isfinite() for loss in losses.values())
        assert losses["loss_distill_class"] > 0
        assert (losses["loss_distill_box"] == 0) == (objects == (0, 0))
        losses["loss_distill_box"].backward()
    assert model.head.bbox_pred.weight.grad is not None


# Data --------------------------------------------------------------------------------------------


def test_another_number_of_classes_is_an_error(dense_cfg, tiny_shapes):
    dense_cfg.DATASETS.COCO_FORMAT = [tiny_shapes]
    dense_cfg.DATASETS.TRAIN = dense_cfg.DATASETS.TEST = (tiny_shapes[0],)
    check_datasets(dense_cfg)
    dense_cfg.MODEL.RETINANET.NUM_CLASSES = 5
    with pytest.raises(DatasetError, match="MODEL.RETINANET.NUM_CLASSES is 5. Set it to 3"):
        check_datasets(dense_cfg)

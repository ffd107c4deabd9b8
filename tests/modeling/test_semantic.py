"""Semantic segmentation: the slimmable head, the teacher's pixels, MutualSemanticSegmentor."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import SemanticSegmentor
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from PIL import Image
from torch import nn

from mutualnet_det.config import LOSS_TERMS
from mutualnet_det.data.coco import check_datasets
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.loader import build_training_loader
from mutualnet_det.data.shapes.semantic import semantic_records
from mutualnet_det.data.views import view_at
from mutualnet_det.modeling import semantic
from mutualnet_det.slimmable import OperatingPoint, SlimmableLayer, at_width, round_channels

TINY = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16]
IGNORE = 255


@pytest.fixture
def semantic_cfg(make_small_cfg):
    """The COCO config of semantic segmentation, small: 4 classes."""
    return make_small_cfg("mutual_semantic_fpn_mbv2", TINY)


@pytest.fixture
def build_plain_segmentor(build_plain_fpn):
    """``build_plain_segmentor(cfg, width)``: Detectron2's own over ``build_plain_fpn``."""

    def build(cfg, width):
        backbone = build_plain_fpn(cfg, width)
        cfg = cfg.clone()
        node = cfg.MODEL.SEM_SEG_HEAD
        if cfg.MUTUALNET.SCOPE == "heads":
            node.CONVS_DIM = round_channels(node.CONVS_DIM * width)
        return SemanticSegmentor(
            backbone=backbone,
            sem_seg_head=SemSegFPNHead(cfg, backbone.output_shape()),
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
        ).eval()

    return build


@pytest.fixture
def semantic_batch(training_batch):
    """Makes training inputs of two noise images, with classes and ignored pixels in blocks."""

    def make(sizes=((64, 96), (80, 64)), num_classes=4):
        batch = training_batch(sizes)
        generator = torch.Generator().manual_seed(1)
        for item, (height, width) in zip(batch, sizes, strict=True):
            blocks = torch.randint(0, num_classes + 1, (1, 1, 8, 8), generator=generator).float()
            labels = F.interpolate(blocks, size=(height, width))[0, 0].long()
            labels[labels == num_classes] = IGNORE
            item["sem_seg"] = labels
            del item["instances"]
        return batch

    return make


# A slimmable network against a plain one ---------------------------------------------------------


@pytest.mark.parametrize("norm", ["", "BN"])
@pytest.mark.parametrize("width", [0.25, 0.7, 1.0])
def test_equals_a_plain_network_of_that_width(
    semantic_cfg, build_random, build_plain_segmentor, beside_plain, semantic_batch, width, norm
):
    semantic_cfg.MODEL.SEM_SEG_HEAD.NORM = norm
    model = build_random(semantic_cfg)
    nn.init.normal_(model.sem_seg_head.predictor.weight)
    plain = build_plain_segmentor(semantic_cfg, width)
    view = view_at(semantic_batch(), 48, 128)
    inputs = [{"image": x["image"], "height": 100, "width": 150} for x in view]
    actual, expected = beside_plain(
        model, plain, OperatingPoint(width, 48), inputs[::-1], lambda x: x(inputs)
    )
    for result, reference in zip(actual, expected, strict=True):
        assert result["sem_seg"].shape == reference["sem_seg"].shape == (4, 100, 150)
        assert reference["sem_seg"].std() > 0.1
        assert (result["sem_seg"] - reference["sem_seg"]).abs().max() < 1e-4


@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
def test_state_dict_is_detectron2s(semantic_cfg, build_plain_segmentor, scope):
    expected = build_plain_segmentor(semantic_cfg, 1.0).state_dict()
    semantic_cfg.MUTUALNET.SCOPE = scope
    model = build_model(semantic_cfg)
    model.load_state_dict(expected, strict=True)
    convolutions = [m for m in model.sem_seg_head.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 1 + 1 + 2 + 3  # p2, p3, p4, p5 and the predictor
    assert {isinstance(m, SlimmableLayer) for m in convolutions} == {scope == "heads"}


def test_group_normalisation_slims_under_no_scope_of_the_head(semantic_cfg):
    semantic_cfg.MODEL.SEM_SEG_HEAD.NORM = "GN"
    with pytest.raises(
        ValueError, match="MODEL.SEM_SEG_HEAD.NORM is 'GN'.*'' and 'BN' do.*MUTUALNET.NORM"
    ):
        build_model(semantic_cfg)
    semantic_cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32  # groups
    semantic_cfg.MUTUALNET.SCOPE = "neck"
    build_model(semantic_cfg)


def test_plain_head_under_scope_heads_is_an_error(semantic_cfg):
    semantic_cfg.MODEL.SEM_SEG_HEAD.NAME = "SemSegFPNHead"
    with pytest.raises(ValueError, match="SCOPE is 'heads', but MODEL.SEM_SEG_HEAD.NAME builds a"):
        build_model(semantic_cfg)


def test_another_kind_of_head_is_an_error():
    with pytest.raises(ValueError, match="MODEL.SEM_SEG_HEAD.NAME builds a Conv2d"):
        semantic.check_semantic_head(nn.Conv2d(1, 1, 1), "neck")


# What a student learns ---------------------------------------------------------------------------


def logits(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_student_gets_a_gradient_and_the_teacher_none():
    student, teacher = logits(2, 4, 8, 12), logits(2, 4, 16, 24, seed=1)
    loss = semantic.semantic_distillation(student, teacher, [(32, 48)] * 2, [(64, 96)] * 2)
    assert loss > 0
    loss.backward()
    assert student.grad.abs().min() > 0 and teacher.grad is None


@pytest.mark.parametrize("size", [(32, 48), (29, 41)])
def test_nothing_to_learn_where_they_agree(size):
    student = logits(2, 4, 8, 12)
    sizes = [size, (32, 30)]
    loss = semantic.semantic_distillation(student, student.detach().clone(), sizes, sizes)
    loss.backward()
    assert loss.abs() < 1e-6 and student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_kl_divergence_of_the_pixels(temperature):
    student, teacher = logits(2, 4, 8, 12), logits(2, 4, 8, 12, seed=1)
    p, q = (x.div(temperature).softmax(1) for x in (teacher, student))
    # The first image fills the batch, of the second 6 x 5 pixels show something, one only in part.
    divergence = temperature**2 * (p * (p / q).log()).sum(1)
    expected = (divergence[0].sum() + divergence[1, :6, :5].sum()) / (8 * 12 + 6 * 5)
    sizes = [(32, 48), (24, 17)]
    actual = semantic.semantic_distillation(student, teacher, sizes, sizes, temperature=temperature)
    torch.testing.assert_close(actual, expected)


def test_half_precision_is_not_for_probabilities():
    student, teacher = logits(1, 4, 8, 12), logits(1, 4, 16, 24, seed=1)
    args = student, teacher, [(29, 41)], [(58, 82)]
    with torch.autocast("cpu", torch.bfloat16):
        actual = semantic.semantic_distillation(*args)
    torch.testing.assert_close(actual, semantic.semantic_distillation(*args), rtol=1e-6, atol=0)


def test_probabilities_not_logits_are_averaged():
    student, teacher = logits(1, 4, 8, 12), 5 * logits(1, 4, 16, 24, seed=1)
    target = F.avg_pool2d(teacher.softmax(1), 2)
    expected = (target * (target.log() - student.log_softmax(1))).sum(1).mean()
    actual = semantic.semantic_distillation(student, teacher, [(32, 48)], [(64, 96)])
    torch.testing.assert_close(actual, expected)


def test_padding_is_cut_off():
    sizes, full_sizes = [(29, 30), (20, 48)], [(58, 60), (40, 96)]
    student, teacher = logits(2, 4, 8, 12), logits(2, 4, 16, 24, seed=1)
    before = semantic.semantic_distillation(student, teacher, sizes, full_sizes)
    with torch.no_grad():
        for x, image_sizes in ((student, sizes), (teacher, full_sizes)):
            for index, (height, width) in enumerate(image_sizes):
                x[index, :, math.ceil(height / 4) :] = 100.0
                x[index, 0, :, math.ceil(width / 4) :] = 100.0
    after = semantic.semantic_distillation(student, teacher, sizes, full_sizes)
    assert after == before


def test_ground_truth_is_the_nearest_pixel_of_the_source():
    labels = torch.arange(6)[:, None] * 10 + torch.arange(9)
    inputs = [{"sem_seg": labels}, {"sem_seg": labels.T}]
    actual = semantic.semantic_ground_truth(inputs, [(2, 3), (9, 6)])
    assert actual[0].tolist() == [[11, 14, 17], [41, 44, 47]]  # the middle of 3 x 3 pixels each
    assert torch.equal(actual[1], labels.T)
    (actual,) = semantic.semantic_ground_truth(inputs[:1], [(4, 5)])
    expected = F.interpolate(labels[None, None].float(), (4, 5), mode="nearest-exact")[0, 0]
    assert torch.equal(actual, expected.long())


def head():
    shapes = {f"p{k}": ShapeSpec(channels=8, stride=2**k) for k in range(2, 6)}
    options = {"num_classes": 4, "conv_dims": 8, "common_stride": 4, "ignore_value": IGNORE}
    return SemSegFPNHead(shapes, **options).train()


def test_ground_truth_losses_are_detectron2s(semantic_batch):
    batch, predicted = semantic_batch(), logits(2, 4, 20, 24)
    losses = semantic.semantic_losses(head(), predicted, [x["sem_seg"] for x in batch])
    upsampled = F.interpolate(predicted, scale_factor=4, mode="bilinear", align_corners=False)
    pixels = [
        (x[:, : labels.shape[0], : labels.shape[1]].flatten(1).T, labels.flatten())
        for x, labels in zip(upsampled, [x["sem_seg"] for x in batch], strict=True)
    ]
    expected = F.cross_entropy(
        torch.cat([x for x, _ in pixels]), torch.cat([y for _, y in pixels]), ignore_index=IGNORE
    )
    assert set(losses) == {"loss_sem_seg"}
    torch.testing.assert_close(losses["loss_sem_seg"], expected)


def test_without_a_labelled_pixel_the_loss_is_zero_and_attached():
    predicted = logits(1, 4, 16, 16)
    losses = semantic.semantic_losses(head(), predicted, [torch.full((64, 60), IGNORE)])
    assert losses["loss_sem_seg"] == 0
    losses["loss_sem_seg"].backward()
    assert predicted.grad is not None


# The training passes -----------------------------------------------------------------------------


def weigh(cfg, **weights):
    """Losses of those weights; of weight 0 are the others."""
    for name in LOSS_TERMS["MutualSemanticSegmentor"]:
        cfg.MUTUALNET.LOSS_WEIGHTS[name] = float(weights.get(name, 0))


def test_full_network_learns_detectron2s_loss(
    semantic_cfg, build_random, build_plain_segmentor, semantic_batch
):
    model = build_random(semantic_cfg).train()
    plain = build_plain_segmentor(semantic_cfg, 1.0).train()
    plain.load_state_dict(model.state_dict(), strict=True)
    losses, teacher = model.teach(semantic_batch())
    expected = plain(semantic_batch())
    assert losses.keys() == expected.keys()
    torch.testing.assert_close(losses["loss_sem_seg"], expected["loss_sem_seg"])
    assert teacher.logits.shape == (2, 4, 24, 24)
    assert not teacher.logits.requires_grad


@pytest.mark.parametrize("resolution", [64, 48, 32])
def test_sub_network_learns_from_the_teacher(
    semantic_cfg, build_random, semantic_batch, resolution
):
    weigh(semantic_cfg, SEGMENTATION=1)
    model = build_random(semantic_cfg).train()
    batch = semantic_batch()
    _, teacher = model.teach(batch)
    for item in batch:
        del item["sem_seg"]  # no ground truth is needed for it
    with at_width(model, 0.25):
        losses = model.study(view_at(batch, resolution, 128), teacher)
        assert set(losses) == {"loss_distill_sem_seg"}
        assert losses["loss_distill_sem_seg"] > 1e-4
        losses["loss_distill_sem_seg"].backward()
    gradient = model.sem_seg_head.predictor.weight.grad
    assert gradient[:, :8].abs().max() > 0
    assert gradient[:, 8:].abs().max() == 0  # what the full network has beside
    assert model.backbone.bottom_up.features[0][0].weight.grad.abs().max() > 0


def test_losses_are_weighted_and_left_out_at_zero(semantic_cfg, build_random, semantic_batch):
    def losses(width=0.5, **weights):
        weigh(semantic_cfg, **weights)
        model = build_random(semantic_cfg).train()
        _, teacher = model.teach(semantic_batch())
        with at_width(model, width):
            return model.study(semantic_batch(), teacher)

    single = losses(GROUND_TRUTH=1, SEGMENTATION=1)
    assert set(single) == {"loss_sem_seg", "loss_distill_sem_seg"}
    weighted = losses(GROUND_TRUTH=2, SEGMENTATION=3)
    for name, factor in (("loss_sem_seg", 2), ("loss_distill_sem_seg", 3)):
        torch.testing.assert_close(weighted[name], factor * single[name])
    assert set(losses(GROUND_TRUTH=1)) == {"loss_sem_seg"}
    assert losses(width=1.0, SEGMENTATION=1)["loss_distill_sem_seg"] < 1e-6  # they agree


# Data --------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_semantic(semantic_cfg, tiny_shapes, tmp_path):
    """The tiny shapes as a registered semantic data set, which the config names; its name."""
    _, json_file, image_root = tiny_shapes
    name = "tiny_semantic"
    folder = str(tmp_path / "masks")
    DatasetCatalog.register(name, lambda: semantic_records(json_file, image_root, folder))
    MetadataCatalog.get(name).set(
        evaluator_type="sem_seg",
        stuff_classes=["background", "circle", "square", "triangle"],
        ignore_label=IGNORE,
    )
    semantic_cfg.DATASETS.TRAIN = semantic_cfg.DATASETS.TEST = (name,)
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NUM_CLASSES", 3, "has 4 classes.*SEM_SEG_HEAD.NUM_CLASSES is 3. Set it to 4"),
        ("IGNORE_VALUE", 0, "SEM_SEG_HEAD.IGNORE_VALUE is 0. Set it to 255"),
    ],
)
def test_a_head_for_other_classes_is_an_error(semantic_cfg, tiny_semantic, key, value, message):
    check_datasets(semantic_cfg)
    semantic_cfg.MODEL.SEM_SEG_HEAD[key] = value
    with pytest.raises(DatasetError, match=message):
        check_datasets(semantic_cfg)


def test_a_mask_with_unknown_classes_is_an_error(semantic_cfg, tiny_semantic):
    semantic_cfg.merge_from_list(["MUTUALNET.BAD_RECORDS", "error", "SOLVER.IMS_PER_BATCH", 12])
    record = DatasetCatalog.get(tiny_semantic)[0]
    mask = record["sem_seg_file_name"]
    Image.fromarray(np.full((96, 96), IGNORE, np.uint8)).save(mask)
    assert len(next(build_training_loader(semantic_cfg, seed=0, start=0))) == 12
    Image.fromarray(np.full((96, 96), 4, np.uint8)).save(mask)
    message = f"Cannot use {record['file_name']}: its mask {mask} holds the class 4"
    with pytest.raises(DatasetError, match=message):
        next(build_training_loader(semantic_cfg, seed=0, start=0))


def test_data_without_semantic_masks_is_an_error(semantic_cfg, tiny_shapes):
    semantic_cfg.DATASETS.COCO_FORMAT = [tiny_shapes]
    semantic_cfg.DATASETS.TRAIN = semantic_cfg.DATASETS.TEST = (tiny_shapes[0],)
    with pytest.raises(DatasetError, match="has no semantic ground truth: 12 of 12 images"):
        check_datasets(semantic_cfg)


def test_data_that_are_not_there_are_an_error(semantic_cfg, tiny_semantic, tmp_path):
    DatasetCatalog.remove(tiny_semantic)
    folders = str(tmp_path / "labels"), str(tmp_path / "images")
    DatasetCatalog.register(tiny_semantic, lambda: load_sem_seg(*folders))
    with pytest.raises(DatasetError, match=r"'tiny_semantic' is not there: .*images.*DETECTRON2"):
        check_datasets(semantic_cfg)

"""Every detection config, made small: trains on generated data and evaluates two points."""

import dataclasses
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog

from mutualnet_det import add_mutualnet_config
from mutualnet_det.checkpoint import find_weights, load_detector
from mutualnet_det.config import check_config
from mutualnet_det.data.coco import check_datasets, register_coco
from mutualnet_det.data.shapes.keypoints import (
    KEYPOINT_FLIP_MAP,
    KEYPOINT_NAMES,
    KEYPOINT_OKS_SIGMAS,
    generate_keypoints,
)
from mutualnet_det.data.shapes.objects import SHAPES_VARIANTS
from mutualnet_det.data.shapes.panoptic import panoptic_records
from mutualnet_det.data.shapes.semantic import semantic_records
from mutualnet_det.engine import MutualTrainer
from mutualnet_det.evaluation import Grid, evaluate_grid
from mutualnet_det.slimmable import OperatingPoint

TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.FPN.OUT_CHANNELS", 32),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.ROI_BOX_HEAD.FC_DIM", 32),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 32),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [32, 32], "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 5),
    *("TEST.KEYPOINT_OKS_SIGMAS", list(KEYPOINT_OKS_SIGMAS), "MODEL.RETINANET.NUM_CLASSES", 3),
    *("MODEL.SEM_SEG_HEAD.NUM_CLASSES", 2, "MODEL.SEM_SEG_HEAD.CONVS_DIM", 16),
    *("MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]]),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.RPN.POST_NMS_TOPK_TEST", 30),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 32, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MUTUALNET.RESOLUTIONS", (64, 48, 32), "MUTUALNET.GRID.WIDTHS", (0.25, 1.0)),
    *("MUTUALNET.GRID.RESOLUTIONS", (64, 32), "MUTUALNET.NUM_RANDOM", 1),
    *("MUTUALNET.CALIBRATION.NUM_IMAGES", 4, "MUTUALNET.CALIBRATION.BATCH_SIZE", 2),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 128),
    *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.WARMUP_ITERS", 1, "SOLVER.CHECKPOINT_PERIOD", 50),
    *("DATALOADER.NUM_WORKERS", 0),
]
# What keeps a training from random weights stable, as in the quick start.
FROM_NOTHING = [
    *("MODEL.FPN.NORM", "BN", "SOLVER.BASE_LR", 0.01),
    *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 5.0),
]
# What ``tiny_shapes`` was generated from.
VARIANT = dataclasses.replace(SHAPES_VARIANTS["shapes"], image_size=96, sides=(16, 40))
# Of each config: the data it trains on, what it is scored on, and losses that tell it from others.
CONFIGS = {
    "mutual_maskrcnn_mbv1": ("instances", ("box", "mask"), {"loss_distill_mask"}),
    "mutual_maskrcnn_mbv2": ("instances", ("box", "mask"), {"loss_distill_mask"}),
    "mutual_maskrcnn_mbv2_paper": ("instances", ("box", "mask"), {"loss_mask"}),
    "mutual_maskrcnn_r50": ("instances", ("box", "mask"), {"loss_distill_mask"}),
    "mutual_maskrcnn_vgg16": ("instances", ("box", "mask"), {"loss_distill_mask"}),
    "mutual_fasterrcnn_mbv2": ("instances", ("box",), {"loss_distill_class"}),
    "mutual_cascade_maskrcnn_mbv2": (
        "instances",
        ("box", "mask"),
        {"loss_cls_stage2", "loss_distill_box_stage2", "loss_distill_mask"},
    ),
    "mutual_keypointrcnn_mbv2": (
        "keypoints",
        ("box", "keypoint"),
        {"loss_keypoint", "loss_distill_keypoint"},
    ),
    "mutual_panoptic_fpn_mbv2": (
        "panoptic",
        ("panoptic", "box", "mask", "semantic"),
        {"loss_sem_seg", "loss_distill_sem_seg", "loss_distill_mask"},
    ),
    "mutual_retinanet_mbv2": ("instances", ("box",), {"loss_distill_class", "loss_distill_box"}),
    "mutual_semantic_fpn_mbv2": ("semantic", ("semantic",), {"loss_distill_sem_seg"}),
}
POINTS = [OperatingPoint(0.25, 32), OperatingPoint(1.0, 64)]


def coco_config(name, root):
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    cfg.merge_from_file(str(root / f"configs/{name}.yaml"))
    return cfg


@pytest.fixture
def tiny_data(tiny_shapes, tmp_path):
    """The tiny shapes, registered for every use; returns the names."""
    _, json_file, image_root = tiny_shapes
    uses = ("instances", "keypoints", "panoptic", "semantic")
    names = {use: f"tiny_{use}" for use in uses}
    register_coco(names["instances"], json_file, image_root)
    register_coco(
        names["keypoints"],
        generate_keypoints(VARIANT, json_file, seed=0),
        image_root,
        keypoint_names=list(KEYPOINT_NAMES),
        keypoint_flip_map=list(KEYPOINT_FLIP_MAP),
    )
    DatasetCatalog.register(
        names["panoptic"],
        lambda: panoptic_records(names["panoptic"], json_file, image_root, str(tmp_path / "stuff")),
    )
    MetadataCatalog.get(names["panoptic"]).set(json_file=json_file, image_root=image_root)
    MetadataCatalog.get(names["semantic"]).set(stuff_classes=["background", *"abc"])
    DatasetCatalog.register(
        names["semantic"], lambda: semantic_records(json_file, image_root, str(tmp_path / "masks"))
    )
    yield names
    for name in names.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def train(request, tiny_data, tmp_path):
    """``train(name, steps, *overrides)``: train a config, made small; returns the trainer."""

    def run_training(name, steps, *overrides):
        cfg = coco_config(name, request.config.rootpath)
        cfg.merge_from_list([*TINY, "OUTPUT_DIR", str(tmp_path), *overrides])
        use, *_ = CONFIGS[name]
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (tiny_data[use],)
        if use == "semantic":
            cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
        cfg.SOLVER.MAX_ITER = steps
        check_config(cfg)
        check_datasets(cfg)
        torch.manual_seed(0)
        mutual = MutualTrainer(cfg)
        mutual.resume_or_load()
        mutual.train()
        return mutual

    return run_training


def evaluate(mutual):
    """The grid of a finished training at two operating points, and what is in its files."""
    cfg = mutual.cfg.clone()
    cfg.MODEL.WEIGHTS = find_weights(cfg, resume=True)
    model, calibrations = load_detector(cfg, cfg.MODEL.WEIGHTS)
    folder = Path(cfg.OUTPUT_DIR) / "grid"
    grid = evaluate_grid(cfg, model, calibrations, POINTS, folder)
    assert Grid.load(folder / "grid.json") == grid
    return grid


def check(mutual, name):
    _, kinds, losses = CONFIGS[name]
    names = set(mutual.storage.latest())
    for loss in losses:
        students = ("narrowest", "random") if "distill" in loss else ("full", "narrowest", "random")
        assert {f"{kind}/{loss}" for kind in students} <= names
    grid = evaluate(mutual)
    assert grid.kinds == kinds
    for row in grid.rows:
        assert all(row.score(kind) is not None for kind in kinds)
        assert row.gflops > 0 and all(row.cost.parameters[part] > 0 for part in row.cost.gflops)
    small, full = grid.rows
    assert full.cost.total(0) > 4 * small.cost.total(0)


# The others train in the long tests alone.
TWO_STEPS = ("mutual_panoptic_fpn_mbv2", "mutual_keypointrcnn_mbv2", "mutual_cascade_maskrcnn_mbv2")
TWENTY_STEPS = ("mutual_maskrcnn_mbv1", "mutual_retinanet_mbv2", "mutual_semantic_fpn_mbv2")
# Of the first losses, the most that the last may be. RetinaNet's classes start from a prior of
# 0.01, which takes its time to leave.
MOST = {"mutual_retinanet_mbv2": 0.97, "mutual_semantic_fpn_mbv2": 0.7}


@pytest.mark.parametrize("name", TWO_STEPS)
def test_trains_and_evaluates(train, name):
    check(train(name, 2), name)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in TWENTY_STEPS else pytest.mark.slow)
        for name in CONFIGS
    ],
)
def test_twenty_steps(train, name):
    mutual = train(name, 20, *FROM_NOTHING)
    check(mutual, name)
    for kind in ("full", "narrowest"):
        # Of the ground truth: what a teacher has to say grows while it learns.
        histories = [
            [value for value, _ in history.values()]
            for loss, history in mutual.storage.histories().items()
            if loss.startswith(f"{kind}/loss_") and "distill" not in loss
        ]
        totals = [sum(values) for values in zip(*histories, strict=True)]
        assert len(totals) == 20
        assert sum(totals[-5:]) < MOST.get(name, 0.9) * sum(totals[:5]), kind


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configs_of_coco_are_usable(request, name):
    cfg = coco_config(name, request.config.rootpath)
    check_config(cfg)
    for dataset in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert dataset in DatasetCatalog.list()
    assert f"output/{name}" == cfg.OUTPUT_DIR

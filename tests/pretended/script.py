"""
Work of one kind of network on the pretended device, printed as JSON.

In a process of its own: torch knows a device for good.

    python script.py KIND FOLDER
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path

import device
import torch
from detectron2.utils.events import EventStorage

from mutualnet_det import BudgetPredictor, evaluate_grid
from mutualnet_det.checkpoint import load_detector
from mutualnet_det.config import grid_points, load_config
from mutualnet_det.data.check import check_datasets
from mutualnet_det.engine import MutualTrainer

SMALL = """
    MODEL.BACKBONE.FREEZE_AT 0 MUTUALNET.RESOLUTIONS (64,48,32) MUTUALNET.NUM_RANDOM 1 SEED 1
    MUTUALNET.GRID.WIDTHS (0.25,1.0) MUTUALNET.GRID.RESOLUTIONS (64,) MUTUALNET.STATISTICS batch
    MUTUALNET.CALIBRATION.NUM_IMAGES 4 INPUT.MIN_SIZE_TRAIN (64,) INPUT.MAX_SIZE_TRAIN 128
    INPUT.MAX_SIZE_TEST 128 SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.STEPS ()
    SOLVER.CHECKPOINT_PERIOD 1 SOLVER.WARMUP_ITERS 1 SOLVER.BASE_LR 0.001 DATALOADER.NUM_WORKERS 0
    MUTUALNET.AMP_DTYPE bfloat16
"""
PYRAMID = "MODEL.FPN.OUT_CHANNELS 32"
OBJECTS = f"""
    {PYRAMID} MODEL.RPN.PRE_NMS_TOPK_TRAIN 100 MODEL.RPN.POST_NMS_TOPK_TRAIN 50
    MODEL.RPN.POST_NMS_TOPK_TEST 20 TEST.DETECTIONS_PER_IMAGE 5 MODEL.ROI_BOX_HEAD.FC_DIM 32
    MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 16 MODEL.ROI_HEADS.NUM_CLASSES 3
"""
PIXELS = "MODEL.SEM_SEG_HEAD.CONVS_DIM 32 MODEL.SEM_SEG_HEAD.NUM_CLASSES"
# By kind: the config, the data set, and what else makes it small.
KINDS = {
    "mask": ("mutual_maskrcnn_mbv2", "shapes_val", OBJECTS),
    "cascade": ("mutual_cascade_maskrcnn_mbv2", "shapes_val", OBJECTS),
    "keypoint": (
        "mutual_keypointrcnn_mbv2",
        "shapes_keypoints_val",
        f"{OBJECTS} MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 5 "
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS (32,) TEST.KEYPOINT_OKS_SIGMAS (0.1,0.1,0.1,0.1,0.1)",
    ),
    "panoptic": ("mutual_panoptic_fpn_mbv2", "shapes_panoptic_val", f"{OBJECTS} {PIXELS} 2"),
    "retinanet": (
        "mutual_retinanet_mbv2",
        "shapes_val",
        f"{PYRAMID} MODEL.RETINANET.NUM_CLASSES 3 TEST.DETECTIONS_PER_IMAGE 5",
    ),
    "semantic": ("mutual_semantic_fpn_mbv2", "shapes_sem_val", f"{PYRAMID} {PIXELS} 4"),
    "classifier": ("pretrain_shapes", "shapes_classes_val", "SOLVER.IMS_PER_BATCH 8"),
}


def config(kind, folder, on, *overrides):
    name, dataset, own = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    sets = [word for key in ("TRAIN", "TEST") for word in (f"DATASETS.{key}", f"('{dataset}',)")]
    where = ["MODEL.DEVICE", on, "OUTPUT_DIR", str(folder)]
    cfg = load_config(name, [*SMALL.split(), *own.split(), *sets, *where, *overrides])
    check_datasets(cfg)
    return cfg


def losses_of_two_steps(cfg):
    """The losses of two steps, and what the second one waits for and copies, by its place."""
    torch.manual_seed(0)
    trainer = MutualTrainer(cfg)
    trainer.prepare(0)
    losses = []
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(2):
            trainer.storage.iter = trainer.iter
            with device.Listener() as listener:
                trainer.run_step()
            latest = trainer.storage.latest()
            losses.append({name: value for name, (value, _) in latest.items() if "loss" in name})
    counts = [[*key, count] for key, count in sorted(listener.counts.items())]
    return losses, counts


def whole_life(kind, folder):
    """Train, stop and go on; calibrate, save, load, evaluate, predict."""
    cfg = config(kind, folder, "pretend", "SOLVER.MAX_ITER", "1")
    MutualTrainer(cfg).train()
    (folder / "model_final.pth").unlink()
    (folder / "last_checkpoint").write_text("model_0000000.pth")
    cfg = config(kind, folder, "pretend")
    trainer = MutualTrainer(cfg)
    trainer.resume_or_load(resume=True)
    start = trainer.start_iter
    trainer.train()
    (folder / "config.yaml").write_text(cfg.dump())
    model, calibrations = load_detector(cfg, str(folder / "model_final.pth"))
    grid = evaluate_grid(cfg, model, calibrations, grid_points(cfg), str(folder / "grid"))
    image = next(Path(os.environ["DETECTRON2_DATASETS"]).rglob("*.[jp][pn]g"))
    predictor = BudgetPredictor.from_pretrained(str(folder), "pretend")
    predictor(str(image), point="0.25x64")
    return {"start": start, "points": len(grid.rows)}


def main(kind, folder):
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    result = {}
    for name, enabled in (("float32", "False"), ("bfloat16", "True")):
        options = ("SOLVER.AMP.ENABLED", enabled)
        expected, _ = losses_of_two_steps(config(kind, folder / "cpu", "cpu", *options))
        actual, counts = losses_of_two_steps(config(kind, folder / "there", "pretend", *options))
        result[name] = {"cpu": expected, "device": actual, "counts": counts}
    result["life"] = whole_life(kind, folder / "life")
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

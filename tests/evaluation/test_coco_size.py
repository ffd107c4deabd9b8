"""An evaluation on COCO's own images that is killed again and again, by the command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mutualnet_det.checkpoint import MutualCheckpointer
from mutualnet_det.config import load_config
from mutualnet_det.modeling.build import build_network

ROOT = Path(__file__).parents[2]
COCO_MINI = ROOT / "../shared/data/coco_mini"
CONFIG = "configs/mutual_maskrcnn_mbv2.yaml"
WIDTHS, RESOLUTIONS = ("0.25", "0.5", "0.75", "1.0"), ("64", "80", "96")
KILL_TIMEOUT = 300  # s
# A small network on small images; a few detections on each, though the weights are random.
SMALL = [
    *("MODEL.FPN.OUT_CHANNELS", "64", "MODEL.ROI_BOX_HEAD.FC_DIM", "64"),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", "1", "MODEL.ROI_MASK_HEAD.CONV_DIM", "32"),
    *("MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    *("TEST.DETECTIONS_PER_IMAGE", "3", "MODEL.RPN.POST_NMS_TOPK_TEST", "20"),
    *("MUTUALNET.RESOLUTIONS", "(96, 80, 64)", "INPUT.MAX_SIZE_TEST", "160"),
    *("INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96"),
    *("MUTUALNET.CALIBRATION.NUM_IMAGES", "4", "MUTUALNET.CALIBRATION.BATCH_SIZE", "2"),
]


class Command:
    """tools/eval_grid.py on the 79 images of coco_mini, at 12 operating points."""

    def __init__(self, folder):
        self._folder = folder
        declared = [
            [split, f"{COCO_MINI}/annotations/instances_{split}.json", f"{COCO_MINI}/{split}"]
            for split in ("train2017", "val2017")
        ]
        overrides = [
            *SMALL,
            *("OUTPUT_DIR", str(folder), "DATASETS.COCO_FORMAT", str(declared)),
            *("DATASETS.TRAIN", "('train2017',)", "DATASETS.TEST", "('val2017',)"),
        ]
        cfg = load_config(str(ROOT / CONFIG), overrides)
        torch.manual_seed(0)
        model = build_network(cfg)
        MutualCheckpointer(model, cfg, str(folder)).save("model_final")
        overrides += ["MODEL.WEIGHTS", str(folder / "model_final.pth")]
        self._arguments = ["--widths", *WIDTHS, "--resolutions", *RESOLUTIONS, *overrides]

    def start(self, output, num_processes, *options):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # of each process
        with open(self._folder / "log.txt", "a") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "tools/eval_grid.py",
                    "--config-file",
                    CONFIG,
                    "--output",
                    str(output),
                    "--num-gpus",
                    str(num_processes),
                    *options,
                    *self._arguments,
                ],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def run(self, *args):
        assert self.start(*args).wait() == 0, (self._folder / "log.txt").read_text()


def kill_when(process, there):
    """Kill the process by SIGKILL as soon as ``there()``; it must not have ended by itself."""
    deadline = time.monotonic() + KILL_TIMEOUT
    while not there():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def images_done(output):
    indices = [json.loads(path.read_text()) for path in output.glob("progress/part-*/index.json")]
    return sum(len(index["images"]) for index in indices)


def contents(folder):
    """All but the times."""
    grid = json.loads((folder / "grid.json").read_text())
    for row in grid["rows"]:
        del row["latency"]
    return grid, {path.name: path.read_bytes() for path in (folder / "detections").iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="needs ../shared/data/coco_mini")
def test_killed_twice_and_resumed_equals_an_undisturbed_run(tmp_path):
    command = Command(tmp_path)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    command.run(undisturbed, 1)

    process = command.start(killed, 2)
    kill_when(process, lambda: images_done(killed) > 0)
    done = images_done(killed)
    assert 0 < done < 79 and not (killed / "grid.json").exists()

    process = command.start(killed, 1, "--resume")
    kill_when(process, lambda: list(killed.glob("progress/*.result.json")))
    assert images_done(killed) == 79 and not (killed / "grid.json").exists()
    scored = {path: path.stat().st_mtime_ns for path in killed.glob("progress/*.result.json")}
    assert 0 < len(scored) < 12

    command.run(killed, 2, "--resume")
    assert contents(killed) == contents(undisturbed)
    grid, detections = contents(killed)
    assert len(grid["rows"]) == 12 and grid["run"]["num_images"] == 79
    assert len(detections) == 24
    for content in detections.values():
        results = json.loads(content)
        assert len(results) > 79 and len({detection["image_id"] for detection in results}) > 70
    assert not (killed / "progress").exists()

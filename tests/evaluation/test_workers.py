"""Several processes that share an evaluation: what they find, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog
from PIL import Image

from mutualnet_det.checkpoint import MutualCheckpointer
from mutualnet_det.config import ConfigError
from mutualnet_det.data.coco import register_coco
from mutualnet_det.evaluation import Grid, evaluate_grid
from mutualnet_det.evaluation import detection as detection_module
from mutualnet_det.evaluation import progress as progress_module
from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.grid import _check_alike
from mutualnet_det.evaluation.progress import Progress, ProgressError
from mutualnet_det.evaluation.workers import Job, Shared
from mutualnet_det.modeling.build import build_network
from mutualnet_det.slimmable import Calibrations, OperatingPoint

POINTS = [OperatingPoint(w, r) for w in (0.25, 1.0) for r in (64, 96)]
NUM_IMAGES = 7
# A process imports torch before it does anything.
LIMIT = 300  # s


@pytest.fixture
def setting(make_slimmable_config, tmp_path):
    """A tiny detector of random weights, which finds a few things in noise; it is saved too."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    data = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "a"}]}
    data["categories"].append({"id": 7, "name": "b"})
    for id_ in range(1, NUM_IMAGES + 1):
        pixels = random.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{id_}.png")
        data["images"].append({"id": id_, "file_name": f"{id_}.png", "height": 70, "width": 90})
        polygon = [[10, 10, 40, 10, 40, 50, 10, 50]]
        data["annotations"].append(
            {"id": id_, "image_id": id_, "category_id": 3, "bbox": [10, 10, 30, 40], "area": 1200}
            | {"iscrowd": 0, "segmentation": polygon}
        )
    json_file = tmp_path / "instances.json"
    json_file.write_text(json.dumps(data))
    name = f"workers_test_{tmp_path.name}"
    declared = [[name, str(json_file), str(tmp_path / "images")]]
    register_coco(*declared[0])
    cfg = make_slimmable_config(
        *("DATASETS.TRAIN", (name,), "DATASETS.TEST", (name,), "DATASETS.COCO_FORMAT", declared),
        *("MUTUALNET.CALIBRATION.NUM_IMAGES", 4),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 3),
    )
    torch.manual_seed(0)
    model = build_network(cfg).eval()
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.INPUT.MIN_SIZE_TRAIN = str(tmp_path), (96,)
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    cfg.freeze()
    MutualCheckpointer(model, cfg, str(tmp_path)).save("model_final")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    yield cfg, model
    DatasetCatalog.remove(name)


@pytest.fixture
def evaluate(setting, monkeypatch):
    """Evaluates in this process, on one thread and without pictures."""
    monkeypatch.setattr(detection_module, "write_figures", lambda *args: None)

    def run(output, **kwargs):
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            cfg, model = setting
            calibrations = Calibrations(model)
            return evaluate_grid(cfg, model, calibrations, POINTS, output, calibrate=True, **kwargs)
        finally:
            torch.set_num_threads(before)

    return run


@pytest.fixture
def start(setting, request, tmp_path):
    """Starts the command with two processes of a thread each; what they say goes to output.txt."""
    root = request.config.rootpath
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    points = [str(point) for point in POINTS]
    config = ("--config-file", str(tmp_path / "config.yaml"), "--points", *points)
    command = (sys.executable, "tools/eval_grid.py", *config, "--num-gpus", "2")

    def run(output, *options):
        with open(tmp_path / "output.txt", "w") as file:
            return subprocess.Popen(
                [*command, "--output", str(output), *options],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=root,
                env=environment,
            )

    return run


def contents(folder):
    """All that must not depend on who did what; times of course do, and how a config is written."""
    grid = json.loads((folder / "grid.json").read_text())
    del grid["run"]["config"]
    for row in grid["rows"]:
        assert list(row["latency"]) == [grid["run"]["device"]]
        del row["latency"]
    return grid, {path.name: path.read_bytes() for path in (folder / "detections").iterdir()}


def test_two_processes_do_what_one_does(evaluate, start, tmp_path):
    grid = evaluate(tmp_path / "one")
    assert '"score"' in (tmp_path / "one" / "detections" / "1.00x96.segm.json").read_text()
    assert start(tmp_path / "two").wait(LIMIT) == 0
    said = (tmp_path / "output.txt").read_text()
    assert said.count(str(grid.query_table()).splitlines()[0]) == 1
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    # Whatever the number of processes, there is nothing left to do.
    again = evaluate(tmp_path / "two", resume=True)
    assert again == Grid.load(tmp_path / "two" / "grid.json")


def test_a_process_that_is_killed_ends_the_evaluation_which_one_goes_on_with(
    evaluate, start, tmp_path
):
    process = start(tmp_path / "grid")
    begun = tmp_path / "grid" / "progress" / "evaluation.json"
    end = time.monotonic() + LIMIT
    while not begun.exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    processes = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = max(map(int, processes))
    os.kill(victim, signal.SIGKILL)
    assert process.wait(LIMIT) == 1
    said = (tmp_path / "output.txt").read_text()
    assert f"error: rank 1 (pid {victim}) was ended by SIGKILL. Add --resume to continue" in said
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < end
        time.sleep(0.05)
    grid = evaluate(tmp_path / "grid", resume=True)
    assert len(grid.rows) == len(POINTS) and grid.run["num_images"] == NUM_IMAGES


def test_no_process_outlives_the_one_that_started_them(start, tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        process = start(tmp_path / "grid")
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    begun = tmp_path / "grid" / "progress" / "evaluation.json"
    end = time.monotonic() + LIMIT
    while not begun.exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    processes = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_processes_must_be_alike():
    _check_alike([{"device": "NVIDIA H200", "weights": "ab"}] * 2)
    others = [{"device": "NVIDIA H200"}, {"device": "NVIDIA L4"}]
    with pytest.raises(ConfigError, match="device is 'NVIDIA L4' on rank 1 and 'NVIDIA H200' on"):
        _check_alike(others)


def test_a_folder_that_machines_do_not_share(tmp_path, monkeypatch):
    progress = Progress(tmp_path, POINTS)
    seen = iter([False, True])
    progress.wait_until(lambda: next(seen))
    monkeypatch.setattr(progress_module, "SHOWN_WITHIN", 0)
    with pytest.raises(ProgressError, match="one folder that all machines share"):
        progress.wait_until(lambda: False)


def make_shared(num_images, num_processes, tmp_path):
    costs = dict.fromkeys(POINTS, Cost({}, {}, 0, {}))
    job = Job(tuple(POINTS), costs, tuple(range(num_images)), Progress(tmp_path, POINTS), tmp_path)
    return Shared(job, dist.HashStore(), num_processes)


def test_every_image_is_taken_once_and_no_process_takes_the_end_alone(tmp_path):
    shared = make_shared(100, 4, tmp_path)
    taken = []
    while images := shared.take_images(64):
        taken.append(images)
    assert [image for images in taken for image in images] == list(range(100))
    assert [len(images) for images in taken[:3]] == [25, 19, 14] and len(taken[-1]) == 1
    assert make_shared(100, 1, tmp_path).take_images(64) == tuple(range(64))
    assert make_shared(100, 4, tmp_path).take_images(1) == (0,)


def test_every_point_is_scored_once(tmp_path):
    shared = make_shared(1, 2, tmp_path)
    one, other = shared.take_points(), shared.take_points()
    taken = [next(one), next(other), *one, *other]
    assert sorted(taken) == sorted(POINTS)

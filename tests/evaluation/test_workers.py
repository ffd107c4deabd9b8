"""Several processes that share an evaluation: what they find, and how they end."""

import json
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from torch.multiprocessing import ProcessExitedException, start_processes

from mutualnet_det.data.coco import register_coco
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.evaluation import Grid, evaluate_grid
from mutualnet_det.evaluation import detection as detection_module
from mutualnet_det.evaluation import workers as workers_module
from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.progress import Progress
from mutualnet_det.evaluation.workers import Job, Shared, WorkerError, share_threads
from mutualnet_det.modeling.build import build_network
from mutualnet_det.slimmable import Calibrations, OperatingPoint

POINTS = [OperatingPoint(w, r) for w in (0.25, 1.0) for r in (64, 96)]
NUM_IMAGES = 7
# A process imports torch before it does anything.
START_TIMEOUT = 300  # s


def no_costs(cfg, model, points, image_sizes, at):
    parts = dict.fromkeys(("backbone", "neck", "rpn", "box_head"), 1.0)
    return {point: Cost(parts, {"mask_head": point.width}, 20, parts) for point in points}


@pytest.fixture
def evaluate(make_slimmable_config, tmp_path, monkeypatch):
    """
    Evaluates a tiny detector of random weights, which finds a few things in noise; no costs are
    counted and no pictures made.
    """
    monkeypatch.setattr(detection_module, "count_points", no_costs)
    monkeypatch.setattr(detection_module, "write_figures", lambda *args: None)
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
        *("DATASETS.TEST", (name,), "DATASETS.COCO_FORMAT", declared),
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 3),
    )
    torch.manual_seed(0)
    model = build_network(cfg).eval()
    calibrations = Calibrations(model)
    images = torch.from_numpy(random.integers(0, 256, (4, 3, 64, 96)).astype(np.float32))
    for point in POINTS:
        calibrations.calibrate(
            point,
            [model.preprocess_image([{"image": x} for x in images])],
            lambda batch: model.backbone(batch.tensor),
        )

    def evaluate(output, **kwargs):
        return evaluate_grid(cfg, model, calibrations, POINTS, output, **kwargs)

    yield evaluate
    DatasetCatalog.remove(name)


def contents(folder):
    """All that must not depend on who did what; times of course do."""
    grid = json.loads((folder / "grid.json").read_text())
    for row in grid["rows"]:
        assert list(row["latency"]) == [grid["run"]["device"]]
        del row["latency"]
    return grid, {path.name: path.read_bytes() for path in (folder / "detections").iterdir()}


def test_ends_with_a_processs_error_and_is_continued_by_another_number(evaluate, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # what one process has, and each of two
    try:
        evaluate(tmp_path / "one")
        broken = tmp_path / "images" / f"{NUM_IMAGES}.png"
        whole = broken.read_bytes()
        broken.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DatasetError, match=rf"{NUM_IMAGES}\.png"):
            evaluate(tmp_path / "several", devices=("cpu", "cpu"))
        assert not multiprocessing.active_children()
        done = Progress(tmp_path / "several" / "progress", POINTS).done()
        assert done and NUM_IMAGES - 1 not in done
        broken.write_bytes(whole)
        evaluate(tmp_path / "several", resume=True)
        assert contents(tmp_path / "several") == contents(tmp_path / "one")
        assert '"score"' in (tmp_path / "one" / "detections" / "1.00x96.segm.json").read_text()
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_processes_do_it_all_as_one_does(evaluate, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        several = evaluate(tmp_path / "several", devices=("cpu", "cpu"))
        assert torch.get_num_threads() == 2
        assert several.run["device"].endswith(", 1 thread")
        torch.set_num_threads(1)
        evaluate(tmp_path / "one")
        assert contents(tmp_path / "several") == contents(tmp_path / "one")
        # Whatever the number of processes and threads, there is nothing left to do.
        torch.set_num_threads(2)
        again = evaluate(tmp_path / "several", devices=("cpu",) * 3, resume=True)
        assert again == several == Grid.load(tmp_path / "several" / "grid.json")
    finally:
        torch.set_num_threads(before)


def test_a_process_that_is_killed_ends_the_evaluation(evaluate, tmp_path):
    def kill_one():
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(children[0].pid, signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    with pytest.raises(WorkerError, match=r"Process \d .* on cpu, has died: SIGKILL.*--resume"):
        evaluate(tmp_path / "grid", devices=("cpu", "cpu"))
    thread.join()
    assert not multiprocessing.active_children()


class Stuck:
    """A job, as far as its config, which takes for ever; who has it says so."""

    def __init__(self, sender):
        self.cfg = self
        self._sender = sender

    def clone(self):
        self._sender.send("at work")
        time.sleep(START_TIMEOUT)


def lead(sender):
    """Start one process of an evaluation as in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arguments = (Stuck(sender), None, "", ("cpu",), None)
    start_processes(
        workers_module._process, arguments, 1, join=False, daemon=True, start_method="spawn"
    )
    time.sleep(START_TIMEOUT)


def test_a_process_ends_with_the_one_that_started_it():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    leader = multiprocessing.get_context("fork").Process(target=lead, args=(sender,))
    leader.start()
    sender.close()
    assert receiver.recv() == "at work"
    leader.kill()
    assert receiver.poll(START_TIMEOUT / 10)
    with pytest.raises(EOFError):  # nobody is there to send any more
        receiver.recv()
    leader.join()


def test_a_process_that_is_interrupted_has_not_done_its_work():
    receiver, sender = multiprocessing.Pipe(duplex=False)
    arguments = (Stuck(sender), None, "", ("cpu",), None)
    processes = start_processes(
        workers_module._process, arguments, 1, join=False, daemon=True, start_method="spawn"
    )
    assert receiver.recv() == "at work"
    os.kill(processes.pids()[0], signal.SIGINT)
    with pytest.raises(ProcessExitedException, match="SIGINT"):
        processes.join()


def make_shared(num_images, num_processes, tmp_path):
    costs = dict.fromkeys(POINTS, Cost({}, {}, 0, {}))
    job = Job(
        None, tuple(POINTS), costs, tuple(range(num_images)), Progress(tmp_path, POINTS), tmp_path
    )
    return Shared(job, num_processes)


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


def test_processes_share_the_threads(monkeypatch):
    monkeypatch.setattr(workers_module.torch, "get_num_threads", lambda: 8)
    assert [share_threads(count) for count in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]

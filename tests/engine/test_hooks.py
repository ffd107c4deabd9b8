"""Training goes on without what cannot be written, and stops when it is asked to."""

import argparse
import errno
import functools
import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage, EventWriter, JSONWriter

from mutualnet_det.checkpoint import NotWrittenError
from mutualnet_det.config import ConfigError
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.loader import LoaderError
from mutualnet_det.engine import periodic_evaluation, watch
from mutualnet_det.engine.hooks import TolerantWriter, going_on_without
from mutualnet_det.engine.setup import setup
from mutualnet_det.signals import EXIT_STOPPED


@pytest.fixture
def build(build_resumed):
    """A trainer of the full network alone, with a record of every iteration."""
    return functools.partial(build_resumed, "MUTUALNET.METHOD", "independent")


def after_steps(mutual, act):
    """Call ``act(iteration)`` whenever weights have changed."""
    step = mutual.optimizer.step

    def stepping():
        step()
        act(mutual.iter)

    mutual.optimizer.step = stepping


def names(folder):
    return sorted(path.name for path in Path(folder).glob("*.pth"))


def iterations(path):
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()]


# Disk full ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
def test_disk_full_for_a_while(build, small_disk, caplog):
    folder = small_disk(60)
    mutual = build("OUTPUT_DIR", str(folder), "SOLVER.CHECKPOINT_PERIOD", 1)

    def fill_or_free(iteration):
        if iteration == 1:
            with open(folder / "ballast", "wb", buffering=0) as ballast, pytest.raises(OSError):
                while True:
                    ballast.write(bytes(2**12))
        if iteration == 3:
            (folder / "ballast").unlink()

    after_steps(mutual, fill_or_free)
    mutual.train()
    assert names(folder) == ["model_0000000.pth", "model_0000003.pth", "model_final.pth"]
    errors = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    for number in (1, 2):
        (text,) = [text for text in errors if f"model_{number:07d}.pth could not" in text]
        for part in ("No space left", "MiB are free", f"{folder}/model_0000000.pth", "goes on"):
            assert part in text
    assert iterations(folder / "metrics.json") == [0, 1, 2, 3]


def test_final_checkpoint_that_cannot_be_written(build, monkeypatch):
    mutual = build()

    save = torch.save

    def fail(content, file):
        if "calibrations" in content:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(content, file)

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(NotWrittenError, match="model_final.pth could not.*No space.*_0000003.pth"):
        mutual.train()
    monkeypatch.setattr(torch, "save", save)
    again = build()
    assert again.start_iter == 4
    again.train()
    assert names(again.cfg.OUTPUT_DIR)[-1] == "model_final.pth"


def test_old_checkpoints_are_removed_by_key(build):
    mutual = build("SOLVER.CHECKPOINT_PERIOD", 1, "MUTUALNET.CHECKPOINTS_KEPT", 2)
    mutual.train()
    assert names(mutual.cfg.OUTPUT_DIR) == ["model_0000003.pth", "model_final.pth"]


def test_a_writer_that_fails_is_told_once(caplog):
    class Failing(EventWriter):
        works = False

        def write(self):
            if not self.works:
                raise OSError("No space left on device")

    failing = Failing()
    writer = TolerantWriter(failing)
    for _ in range(3):
        writer.write()
    assert caplog.messages == [
        "Failing cannot write: No space left on device. Training goes on without it."
    ]
    failing.works = True
    writer.write()
    failing.works = False
    writer.write()
    writer.close()
    assert len(caplog.messages) == 2


def test_metrics_of_a_full_disk_come_later(tmp_path, caplog):
    path = tmp_path / "metrics.json"
    writer = TolerantWriter(JSONWriter(str(path)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EventStorage(0) as storage:
        for storage.iter, limit in enumerate((before[0], 30, 30, before[0])):
            storage.put_scalar("loss", 1.0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            try:
                writer.write()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(caplog.messages) == 1
    assert iterations(path) == [0, 1, 2, 3]


def test_what_is_no_trouble_with_files_is_raised():
    with pytest.raises(ValueError), going_on_without("It"):
        raise ValueError


def test_evaluation_without_room(build, monkeypatch, caplog):
    def fail(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(periodic_evaluation, "evaluate_grid", fail)
    mutual = build("TEST.EVAL_PERIOD", 2, "MUTUALNET.CALIBRATION.NUM_IMAGES", 2)
    mutual.train()
    assert caplog.text.count("The evaluation is missing, and training goes on without it") == 2
    assert names(mutual.cfg.OUTPUT_DIR)[-1] == "model_final.pth"


@pytest.mark.parametrize("names", [(), ("one", "other")])
def test_what_cannot_be_evaluated_is_told_before_training(tmp_path, training_cfg, names):
    training_cfg.DATASETS.TEST = names
    training_cfg.TEST.EVAL_PERIOD = 10
    path = tmp_path / "cfg.yaml"
    path.write_text(training_cfg.dump())
    args = argparse.Namespace(config_file=str(path), opts=[], resume=False, eval_only=False)
    message = "TEST.EVAL_PERIOD is 10; expected 0.* evaluated on one data set; DATASETS.TEST is"
    with pytest.raises(ConfigError, match=message):
        setup(args)


def test_a_test_set_without_objects_is_told_before_training(tmp_path, training_cfg):
    name, json_file, image_root = training_cfg.DATASETS.COCO_FORMAT[0]
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({**json.loads(Path(json_file).read_text()), "annotations": []}))
    training_cfg.DATASETS.COCO_FORMAT.append(["empty", str(empty), image_root])
    training_cfg.DATASETS.TEST = ("empty",)
    training_cfg.TEST.EVAL_PERIOD = 10
    path = tmp_path / "cfg.yaml"
    path.write_text(training_cfg.dump())
    args = argparse.Namespace(config_file=str(path), opts=[], resume=False, eval_only=False)
    with pytest.raises(DatasetError, match="'empty' has no objects to find"):
        setup(args)


def test_a_failed_evaluation_costs_no_steps_and_is_made_up_for(build, monkeypatch):
    evaluated = []

    def fail(*args):
        raise DatasetError("The image 7.jpg cannot be used")

    options = ("TEST.EVAL_PERIOD", 2, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_ITER", 4)
    options += ("MUTUALNET.CALIBRATION.NUM_IMAGES", 2)
    with monkeypatch.context() as patch:
        patch.setattr(periodic_evaluation, "evaluate_grid", fail)
        mutual = build(*options)
        with pytest.raises(DatasetError, match="7.jpg"):
            mutual.train()
        assert names(mutual.cfg.OUTPUT_DIR) == ["model_0000001.pth"]
    evaluate_grid = periodic_evaluation.evaluate_grid

    def evaluate(*args):
        evaluated.append(Path(args[-1]).name)
        return evaluate_grid(*args)

    monkeypatch.setattr(periodic_evaluation, "evaluate_grid", evaluate)
    folder = Path(mutual.cfg.OUTPUT_DIR)
    resumed = build(*options)
    resumed.resume_or_load(True)
    saved = []
    resumed.checkpointer.save = functools.partial(_save_and_note, resumed.checkpointer.save, saved)
    resumed.train()
    assert evaluated == ["0000002", "0000004"]
    # A checkpoint is written once, also where an evaluation asked for it.
    assert [name for name in saved if name != "model_best"] == ["model_0000003", "model_final"]
    # What was made up for is in the metrics too.
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert any("box/AP-1.00x64" in line for line in lines), lines
    # A stop in the last evaluation leaves all checkpoints behind.
    (folder / "eval" / "0000004" / "grid.json").unlink()
    complete = build(*options)
    complete.resume_or_load(True)
    complete.train()
    assert evaluated == ["0000002", "0000004", "0000004"]


def _save_and_note(save, saved, name, **kwargs):
    saved.append(name)
    save(name, **kwargs)


def test_an_evaluation_that_is_cut_short_leaves_none_of_other_weights(build, monkeypatch):
    def fail(*args):
        raise DatasetError("The image 7.jpg cannot be used")

    monkeypatch.setattr(periodic_evaluation, "evaluate_grid", fail)
    mutual = build("TEST.EVAL_PERIOD", 2, "MUTUALNET.CALIBRATION.NUM_IMAGES", 2)
    path = Path(mutual.cfg.OUTPUT_DIR) / "eval" / "0000002" / "grid.json"
    path.parent.mkdir(parents=True)
    path.write_text("of a training before")
    with pytest.raises(DatasetError):
        mutual.train()
    assert not path.exists()


# Processes ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
def test_processes_are_watched_closely_in_a_step_and_not_in_an_evaluation(build, monkeypatch):
    other = SimpleNamespace(in_step=False, is_alone=False)
    monkeypatch.setattr(watch, "_watch", other)
    seen = []

    def evaluate(*args):
        seen.append(("evaluation", other.in_step))
        raise OSError("No space left on device")

    monkeypatch.setattr(periodic_evaluation, "evaluate_grid", evaluate)
    options = ("TEST.EVAL_PERIOD", 1, "MUTUALNET.CALIBRATION.NUM_IMAGES", 2)
    mutual = build(*options, "SOLVER.MAX_ITER", 2)
    after_steps(mutual, lambda _: seen.append(("step", other.in_step)))
    mutual.train()
    assert seen == [("step", True), ("evaluation", False)] * 2
    # Nor after a step that has failed.
    mutual = build(*options, "SOLVER.MAX_ITER", 4, "OUTPUT_DIR", mutual.cfg.OUTPUT_DIR)
    after_steps(mutual, lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mutual.train()
    assert not other.in_step


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
@pytest.mark.parametrize(("restarts", "status"), [("0", EXIT_STOPPED), ("3", 0)])
def test_what_torchrun_left_alone_stops_with_a_checkpoint(build, monkeypatch, restarts, status):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    other = SimpleNamespace(in_step=False, is_alone=False)
    monkeypatch.setattr(watch, "_watch", other)
    mutual = build()
    after_steps(mutual, lambda iteration: setattr(other, "is_alone", iteration == 1))
    with pytest.raises(SystemExit) as stop:
        mutual.train()
    assert stop.value.code == status
    assert names(mutual.cfg.OUTPUT_DIR)[-1] == "model_0000001.pth"
    told = Path(mutual.cfg.OUTPUT_DIR, "stopped").read_text()
    assert told == "SIGTERM after iteration 1\n"


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
def test_worker_that_is_killed(build):
    mutual = build("DATALOADER.NUM_WORKERS", 1)

    def kill(iteration):
        if iteration == 1:
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)

    after_steps(mutual, kill)
    with pytest.raises(LoaderError, match="Killed.*memory.*DATALOADER.NUM_WORKERS.*--resume"):
        mutual.train()


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
def test_a_stop_in_the_last_step_is_not_kept_waiting(build, monkeypatch):
    monkeypatch.setattr(
        periodic_evaluation, "evaluate_grid", lambda *args: pytest.fail("evaluates")
    )
    mutual = build("TEST.EVAL_PERIOD", 10)
    after_steps(mutual, lambda iteration: iteration == 3 and os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        mutual.train()
    assert stop.value.code == EXIT_STOPPED
    assert names(mutual.cfg.OUTPUT_DIR)[-1] == "model_0000003.pth"


def test_two_processes_stop_after_the_same_step(
    make_training_cfg, start_script, exit_codes, tmp_path
):
    """Only the second one is asked; the first is behind by then."""
    cfg = make_training_cfg(tmp_path)
    cfg.MUTUALNET.METHOD = "independent"
    cfg.SOLVER.MAX_ITER = 50
    cfg.SOLVER.CHECKPOINT_PERIOD = 100
    job = {"world_size": 2, "folder": str(tmp_path), "cfg": cfg}
    processes = [start_script("stopping_script.py", rank=rank, **job) for rank in range(2)]
    assert exit_codes(processes) == [EXIT_STOPPED, EXIT_STOPPED]
    assert [(tmp_path / f"stopped{rank}").read_text() for rank in range(2)] == ["3", "3"]
    assert names(tmp_path) == ["model_0000003.pth"]

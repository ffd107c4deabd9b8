"""Metrics: what a resume cuts, and what is on disk when a run is killed."""

import contextlib
import json
import logging
import time

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mutualnet_det.engine import metrics, trainer
from mutualnet_det.engine.metrics import MeasureSteps, ProgressPrinter, build_writers, cut_metrics
from mutualnet_det.engine.timing import PARTS, StepTimer


def line(iteration):
    return json.dumps({"iteration": iteration, "full/total_loss": 1.5}) + "\n"


@pytest.mark.parametrize("start, kept", [(0, 0), (19, 0), (20, 1), (40, 2), (1000, 3)])
def test_records_of_the_iteration_and_later_are_cut(tmp_path, start, kept):
    path = tmp_path / "metrics.json"
    lines = [line(19), line(39), line(59)]
    path.write_text("".join(lines))
    cut_metrics(str(path), start)
    assert path.read_text() == "".join(lines[:kept])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_line_that_was_cut_off_goes_too(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text(line(19) + line(39)[:-20])
    cut_metrics(str(path), 60)
    assert path.read_text() == line(19)
    # All of a record, but not the end of its line.
    path.write_text(line(19) + line(39)[:-1])
    cut_metrics(str(path), 60)
    assert path.read_text() == line(19) + line(39)


def test_losses_that_are_not_finite_are_read_back(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 19, "full/total_loss": NaN}\n')
    cut_metrics(str(path), 20)
    assert "NaN" in path.read_text()


def test_nothing_to_cut(tmp_path):
    cut_metrics(str(tmp_path / "metrics.json"), 0)
    assert list(tmp_path.iterdir()) == []


def write(folder, start, stop):
    writers = build_writers(str(folder), start, max_iter=100)
    with EventStorage(start) as storage:
        for storage.iter in range(start, stop):
            storage.put_scalar("full/total_loss", storage.iter)
            for writer in writers:
                writer.write()
    return writers


def test_records_are_on_disk_before_the_run_ends(tmp_path):
    write(tmp_path, 0, 3)  # not closed: a run that is killed closes nothing
    assert len((tmp_path / "metrics.json").read_text().splitlines()) == 3


def test_a_later_try_replaces_what_an_earlier_one_wrote(tmp_path):
    for start, stop in ((0, 6), (4, 8)):
        for writer in write(tmp_path, start, stop):
            writer.close()
    lines = [json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [record["iteration"] for record in lines] == list(range(8))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("full/total_loss")] == list(range(8))


class Trainer:
    """As much of a trainer as a hook sees; its steps take as long as they are told to."""

    def __init__(self, monkeypatch, start=0, max_iter=1000, **measure):
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        self.iter, self.max_iter = start, max_iter
        self.timer = StepTimer("cpu")
        defaults = {"num_images": 8, "period": 10, "pause_period": 100}
        self.hook = MeasureSteps(self.timer, torch.device("cpu"), **(defaults | measure))
        self.hook.trainer = self
        self.num_steps = 0

    def steps(self, count, *, data=0.0, forward=0.0, rest=0.0, pause=0.0):
        """Steps of so many seconds, and a pause after the last of them."""
        for _ in range(count):
            self.storage.iter = self.iter
            self.hook.before_step()
            for part, seconds in (("data", data), ("teacher_forward", forward)):
                with self.timer(part):
                    self.now += seconds
            self.now += rest
            self.num_steps += 1
            if self.num_steps >= 3:  # as Detectron2's IterationTimer
                self.storage.put_scalar("time", data + forward + rest)
            self.hook.after_step()
            self.iter += 1
        self.now += pause

    def latest(self, name):
        return self.storage.latest()[name][0]


@pytest.fixture
def make_trainer(monkeypatch):
    with contextlib.ExitStack() as stack:

        def make(**kwargs):
            trainer = Trainer(monkeypatch, **kwargs)
            trainer.storage = stack.enter_context(EventStorage(trainer.iter))
            return trainer

        yield make


def test_step_time_split_is_the_mean_since_the_last_record(make_trainer):
    trainer = make_trainer()
    trainer.steps(2, forward=1000)  # compiles, allocates: not counted
    trainer.steps(7, data=1, forward=2, rest=3)
    assert "images_per_second" not in trainer.storage.latest()
    trainer.steps(1, data=9, forward=10, rest=11)
    split = {"data": 2, "teacher_forward": 3, "other": 4}
    for part, seconds in split.items():
        assert trainer.storage.latest()[f"seconds/{part}"] == (seconds, 9)
    assert trainer.latest("data_share") == pytest.approx(2 / 9)
    assert trainer.latest("images_per_second") == pytest.approx(8 / 9)
    trainer.steps(10, data=0, forward=4)
    assert trainer.latest("seconds/data") == 0
    assert trainer.latest("seconds/teacher_forward") == 4
    assert trainer.latest("images_per_second") == 2


def test_the_last_steps_are_measured_too(make_trainer):
    trainer = make_trainer(max_iter=14)
    trainer.steps(14, forward=2)
    assert trainer.storage.latest()["images_per_second"] == (4, 13)
    assert trainer.latest("eta_seconds") == 0


@pytest.mark.parametrize("start", [0, 480])
def test_time_left_after_a_resume(make_trainer, start):
    trainer = make_trainer(start=start)
    trainer.steps(20, forward=2)
    assert trainer.latest("eta_seconds") == 2 * (1000 - start - 20)


def test_time_left_counts_as_many_pauses_as_there_will_be(make_trainer):
    """An evaluation of 50 s every 100 iterations, of which a resumed run soon meets the first."""
    trainer = make_trainer(start=290, max_iter=1000)
    trainer.steps(10, forward=2, pause=50)
    assert trainer.latest("eta_seconds") == 700 * 2  # it has met none yet
    trainer.steps(20, forward=2)
    assert trainer.latest("eta_seconds") == pytest.approx(680 * 2 + 6.8 * 50)
    trainer.steps(80, forward=2, pause=50)
    trainer.steps(20, forward=2)
    assert trainer.latest("eta_seconds") == pytest.approx(580 * 2 + 5.8 * 50)


def test_a_training_writes_where_its_time_goes(make_training_cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "WRITE_PERIOD", 2)
    cfg = make_training_cfg(tmp_path)
    cfg.SOLVER.MAX_ITER = 4
    seed_all_rng(0)
    mutual = trainer.MutualTrainer(cfg)
    mutual.resume_or_load()
    mutual.train()
    first, last = (json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines())
    # Steps 1 and 2 are not measured.
    assert not [name for name in first if name.startswith("seconds/")] and "lr" in first
    split = {name.removeprefix("seconds/") for name in last if name.startswith("seconds/")}
    assert split == {*PARTS, "other"}
    # Steps 3 and 4, whose median time, which is also their mean, has all parts in it.
    assert sum(last[f"seconds/{part}"] for part in split) == pytest.approx(last["time"])
    assert all(last[f"seconds/{part}"] > 0 for part in PARTS)
    assert last["images_per_second"] == pytest.approx(cfg.SOLVER.IMS_PER_BATCH / last["time"])
    assert 0 < last["data_share"] < 1 and last["gradient_norm"] > 0
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for name in ("seconds/data", "peak_memory_mib", "gradient_norm"):
        assert events.Scalars(name)[-1].value == pytest.approx(last[name])


def test_peak_memory(make_trainer, monkeypatch):
    def without_proc(field):
        raise OSError

    monkeypatch.setattr(metrics, "resident_memory", without_proc)
    trainer = make_trainer()
    trainer.steps(10, forward=1)
    assert "peak_memory_mib" not in trainer.storage.latest()
    monkeypatch.setattr(metrics, "resident_memory", {"VmHWM": 640.5}.get)
    trainer.steps(10, forward=1)
    assert trainer.latest("peak_memory_mib") == 640.5
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {torch.device("cuda:1"): 2**30}.get)
    assert metrics.process_peak_memory(torch.device("cuda:1")) == 1024


def test_progress_line(caplog):
    with EventStorage(41) as storage, caplog.at_level(logging.INFO, "mutualnet_det"):
        for name, value in (("full", 2.0), ("narrowest", 3.25), ("random", 1.0)):
            storage.put_scalar(f"{name}/total_loss", value)
        for name, value in {
            "seconds/data": 0.5,
            "seconds/student_forward": 1.5,
            "eta_seconds": 100_000,
            "images_per_second": 8.0,
            "data_share": 0.25,
            "lr": 0.0125,
            "peak_memory_mib": 1161.4,
        }.items():
            storage.put_scalar(name, value, smoothing_hint=False)
        ProgressPrinter(4200).write()
    assert caplog.messages == [
        "42/4200 1% 27:46:40 left | loss full 2.00 narrowest 3.25 random 1.00 | "
        "2 s/iter, 8 img/s, data 25% | lr 0.013, 1161 MiB"
    ]


def test_progress_line_before_anything_is_known_and_after_the_end(caplog):
    with EventStorage(0) as storage, caplog.at_level(logging.INFO, "mutualnet_det"):
        ProgressPrinter(100).write()
        assert caplog.messages == ["1/100 1%"]
        caplog.clear()
        storage.iter = 100
        ProgressPrinter(100).write()
        assert not caplog.text

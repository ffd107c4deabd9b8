"""Metrics: what a resume cuts, and what is on disk when a run is killed."""

import json
import logging

import pytest
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mutualnet_det.engine.metrics import ProgressPrinter, build_writers, cut_metrics


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
    found = [json.loads(x) for x in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [record["iteration"] for record in found] == list(range(8))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("full/total_loss")] == list(range(8))


def test_progress_line(caplog):
    with EventStorage(41) as storage, caplog.at_level(logging.INFO, "mutualnet_det"):
        for name, value in (("full", 2.0), ("narrowest", 3.25), ("random", 1.0)):
            storage.put_scalar(f"{name}/total_loss", value)
        storage.put_scalar("time", 2.0)
        storage.put_scalar("data_time", 0.5)
        storage.put_scalar("lr", 0.0125, smoothing_hint=False)
        ProgressPrinter(100).write()
    for text in (
        "left 0:01:56",
        "iter 42/100",
        "full 2.000  narrowest 3.250  random 1.000",
        "2.000 s/iter (data 0.500 s)",
        "lr 0.0125",
    ):
        assert text in caplog.text


def test_progress_line_before_anything_is_known_and_after_the_end(caplog):
    with EventStorage(0) as storage, caplog.at_level(logging.INFO, "mutualnet_det"):
        ProgressPrinter(100).write()
        assert "iter 1/100" in caplog.text
        caplog.clear()
        storage.iter = 100
        ProgressPrinter(100).write()
        assert not caplog.text

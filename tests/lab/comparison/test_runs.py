"""Carrying a plan out with stand-ins for the tools: order, resume, failures, kills."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time

import pytest

from mutualnet_det.files import draft_of
from mutualnet_det.lab.comparison import (
    PlanError,
    RunsError,
    failure,
    locked,
    read_plan,
    run_all,
    runs,
)

# A training or evaluation that notes when it was, and fails where a file tells it to.
TOOL = """
import os, pathlib, sys
folder, stage = pathlib.Path(sys.argv[1]), sys.argv[2]
with open(folder / "stages", "a") as file:
    file.write(stage + " " + os.environ["SLOT"] + "\\n")
if (folder / ("break " + stage)).exists():
    sys.exit("the disk is on fire")
"""
STATUS = 1  # of sys.exit with a text


def commands(run):
    return [[sys.executable, "-c", TOOL, str(run.folder), stage] for stage in ("train", "evaluate")]


def stages(run):
    path = run.folder / "stages"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def carry_out(plan):
    def go(the_plan=plan, command_lines=commands, processes=2):
        slots = [{"SLOT": str(number)} for number in range(processes)]
        with locked(the_plan.output) as lock:
            return run_all(the_plan.runs, command_lines, slots, lock)

    return go


def test_every_run_is_trained_and_evaluated_once(plan, carry_out):
    assert carry_out() == {}
    assert all(stages(run) == ["train", "evaluate"] for run in plan.runs)
    assert {runs.runs_at_a_time(run) for run in plan.runs} == {2}
    assert all(0 < runs.seconds_taken(run) < 100 for run in plan.runs)
    slots = {line.split()[1] for r in plan.runs for line in open(r.folder / "stages")}
    assert slots == {"0", "1"}
    assert carry_out() == {}
    assert all(stages(run) == ["train", "evaluate"] for run in plan.runs)


def test_a_failed_run_is_named_and_the_others_go_on(plan, carry_out):
    broken = plan.runs[1]
    runs.begin(broken)
    (broken.folder / "break evaluate").touch()
    failed = carry_out()
    assert failed == {broken: STATUS}
    text = failure(broken, STATUS)
    assert "us_net, seed 0 ended with status 1" in text and "the disk is on fire" in text
    assert str(broken.folder / "run.log") in text
    assert all(runs.is_finished(run) == (run is not broken) for run in plan.runs)
    # Once it is mended, it alone is tried again.
    (broken.folder / "break evaluate").unlink()
    assert carry_out() == {}
    assert stages(broken) == ["train", "evaluate"] * 2
    assert runs.seconds_taken(broken) is None  # from its first beginning to its end
    assert all(stages(r) == ["train", "evaluate"] for r in plan.runs if r is not broken)


def test_a_command_that_cannot_start_says_so(plan, carry_out):
    with pytest.raises(FileNotFoundError, match="no such program"):
        carry_out(command_lines=lambda run: [["/no such program"]])


def test_a_changed_config_is_named_before_anything_runs(plan, carry_out, write_plan):
    carry_out()
    changed = read_plan(write_plan(options={"SOLVER.BASE_LR": 0.005}, seeds=[1, 2]))
    with pytest.raises(PlanError, match=r"mutual/seed1 .*SOLVER.BASE_LR 0.01, .* 0.005") as error:
        carry_out(changed)
    assert "Delete the folder" in str(error.value)
    assert not any(stages(run) for run in changed.runs if run.seed == 2)
    # A key that a later version of the code brings counts as its default.
    path = plan.runs[0].folder / "run.json"
    kept = json.loads(path.read_text())
    assert kept["config"].pop("MUTUALNET.TEMPERATURE") == 1.0
    path.write_text(json.dumps(kept))
    assert carry_out(read_plan(write_plan())) == {}
    with pytest.raises(PlanError, match=r"MUTUALNET.TEMPERATURE 1.0, .* 2.0"):
        carry_out(read_plan(write_plan(options={"MUTUALNET.TEMPERATURE": 2.0})))
    # A run of another machine's GPU can be told of, and not be continued.
    kept = {**kept, "config": {**kept["config"], "MODEL.DEVICE": "another"}}
    path.write_text(json.dumps(kept))
    assert carry_out(read_plan(write_plan())) == {}
    path.write_text(json.dumps({**kept, "finished": False}))
    with pytest.raises(PlanError, match="MODEL.DEVICE 'another'"):
        carry_out(read_plan(write_plan()))
    path.write_text(json.dumps(kept))
    # What does not change the results may differ.
    free = {"DATALOADER.NUM_WORKERS": 3, "MUTUALNET.CHECKPOINTS_KEPT": 2}
    assert carry_out(read_plan(write_plan(options=free))) == {}


def test_what_is_evaluated_may_change(plan, carry_out, write_plan):
    assert carry_out() == {}
    more = read_plan(write_plan(widths=[0.25, 0.5, 1.0]))
    mutual = next(run for run in more.runs if run.name == "mutual, seed 0")
    (mutual.folder / "grid").mkdir()  # what the evaluation left
    message = r"mutual/seed0 .*points \['0.25x32'.* Delete .*grid to evaluate it anew"
    with pytest.raises(PlanError, match=message):
        carry_out(more)
    (mutual.folder / "grid").rmdir()
    assert carry_out(more) == {}
    assert stages(mutual) == ["train", "evaluate"] * 2
    (alone,) = (run for run in more.runs if run.name == "independent 0.25x32, seed 0")
    assert stages(alone) == ["train", "evaluate"]  # its one point is what it was
    assert carry_out(more) == {}
    assert stages(mutual) == ["train", "evaluate"] * 2
    # Not if something else has changed too.
    other = read_plan(write_plan(options={"SOLVER.BASE_LR": 0.005}))
    with pytest.raises(PlanError, match="Delete the folder"):
        carry_out(other)


def test_a_plan_may_change_for_runs_that_have_not_begun(plan, carry_out, write_plan):
    def stop_in_the_first(run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(command_lines=stop_in_the_first)
    begun = [run.name for run in plan.runs if run.folder.exists()]
    assert begun == ["mutual, seed 0"]
    with pytest.raises(PlanError, match="mutual/seed0 .*BASE_LR"):
        carry_out(read_plan(write_plan(options={"SOLVER.BASE_LR": 0.005})))
    changed = read_plan(write_plan(options={"SOLVER.BASE_LR": 0.005}, seeds=[1]))
    assert carry_out(changed) == {}


def test_slots_without_a_run_are_not_counted(plan, carry_out, write_plan):
    carry_out(read_plan(write_plan(seeds=[0])), processes=8)
    assert {runs.runs_at_a_time(run) for run in plan.runs if run.seed == 0} == {4}


def test_runs_from_other_weights_are_named(write_plan, pretrain, counted, carry_out):
    plan = read_plan(write_plan(pretrain=pretrain))
    training = plan.pretraining
    with locked(training.folder) as lock:  # which is a file there
        assert run_all([training], lambda run: [commands(run)[0]], [{"SLOT": "0"}], lock) == {}
    assert stages(training) == ["train"] and runs.is_finished(training)
    training.weights.write_bytes(b"a backbone")
    runs.begin(plan.runs[0])
    training.weights.write_bytes(b"another one")
    with pytest.raises(PlanError, match=r"mutual/seed0 .*other weights .*pretrained/model_final"):
        carry_out(plan)
    assert not any(stages(run) for run in plan.runs)
    with pytest.raises(PlanError, match=r"mutual/seed0 .*other weights"):
        carry_out(read_plan(write_plan(pretrain=pretrain, widths=[0.25, 0.5, 1.0])))
    training.weights.write_bytes(b"a backbone")
    assert carry_out(plan) == {}
    training.weights.unlink()  # finished runs do without
    assert carry_out(plan) == {}


def test_a_kill_before_anything_was_noted_leaves_nothing_in_the_way(plan, carry_out):
    folder = plan.runs[0].folder
    folder.mkdir(parents=True)
    draft_of(folder / "run.json").write_text("{")
    assert carry_out() == {}


def test_folders_of_others_are_left_alone(plan, carry_out):
    folder = plan.runs[0].folder
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    with pytest.raises(PlanError, match=r"seed0 holds something else"):
        carry_out()
    (folder / "run.json").write_text("{")
    with pytest.raises(PlanError, match=r"run.json is not what a comparison wrote"):
        carry_out()


def test_progress_counts_what_is_done(plan, carry_out, monkeypatch, caplog):
    monkeypatch.setattr(runs, "LOG_PERIOD", 0)
    with caplog.at_level("INFO", logger="mutualnet_det"):
        carry_out()
    lines = [record.getMessage() for record in caplog.records if "of the work" in record.message]
    assert "0 of 8 runs finished, 0.0 % of the work; left: unknown; at work: mutual" in lines[0]
    assert re.search("mutual, seed 0: (0/2|evaluating); us_net, seed 0: (0/2|evaluating)", lines[0])
    assert "8 of 8 runs finished, 100.0 % of the work; left: about 0:00:00" in lines[-1]
    run = plan.runs[0]
    (run.folder / "metrics.json").write_text('{"iteration": 0}\n{"iteration": 1, "ti')
    assert runs.steps_done(run) == 0  # a line that is being written
    (run.folder / "metrics.json").write_text('{"iteration": 0}\n{"iteration": 1}\n')
    assert runs.steps_done(run) == 2


def finish(run, seconds):
    """Have a run be one that has finished."""
    runs.begin(run)
    path = run.folder / "run.json"
    told = {"finished": True, "seconds": seconds}
    path.write_text(json.dumps(json.loads(path.read_text()) | told))


def time_left(the_runs, at_a_time, caplog):
    """What the first line of a comparison says, which has just begun or been resumed."""
    pending = [run for run in the_runs if not runs.is_finished(run)]
    caplog.clear()
    with caplog.at_level("INFO", logger="mutualnet_det"):
        runs._Log(the_runs, pending, at_a_time).update([], {})
    return re.search("left: (.*);", caplog.text)[1]


def test_time_left_after_a_resume_is_what_runs_take(plan, monkeypatch, caplog):
    monkeypatch.setattr(runs, "LOG_PERIOD", 0)
    assert time_left(plan.runs, 2, caplog) == "unknown"
    finish(plan.runs[0], 600.0)
    # Two methods take 600 s a run, the two that have a quarter of their GFLOPs 150 s.
    assert time_left(plan.runs, 1, caplog) == "about 0:40:00"
    assert time_left(plan.runs, 2, caplog) == "about 0:20:00"
    (us_net,) = (run for run in plan.runs if run.name == "us_net, seed 0")
    runs.begin(us_net)
    (us_net.folder / "metrics.json").write_text('{"iteration": 0}\n')
    # One of its two steps is done, and an evaluation to come.
    assert time_left(plan.runs, 1, caplog) == "about 0:35:45"
    for run in plan.runs:
        if run is not us_net:
            finish(run, 600.0 if run.gflops_per_step == us_net.gflops_per_step else 150.0)
    # The last one is not shared.
    assert time_left(plan.runs, 2, caplog) == "about 0:05:45"


def test_work_is_the_time_that_runs_of_a_method_took(plan):
    def expected():
        actual = runs.expected_seconds(plan.runs)
        by_title = {run.title: s for run, s in zip(plan.runs, actual, strict=True)}
        return pytest.approx(list(by_title.values()))

    (mutual, _), (us_net, _), (large, _), (small, other) = (
        [run for run in plan.runs if run.title == title]
        for title in dict.fromkeys(run.title for run in plan.runs)
    )
    # 2 steps of 8 or 2 GFLOPs.
    assert expected() == [16, 16, 4, 4]
    finish(mutual, 10.0)
    assert expected() == [10, 10, 2.5, 2.5]
    finish(small, 6.0)
    finish(other, 8.0)
    finish(large, None)  # was interrupted
    pace = 2 * (10 + 7) / (2 * (16 + 4))  # s per GFLOP, of both seeds of both
    assert expected() == [10, 16 * pace, 4 * pace, 7]


def test_two_comparisons_do_not_share_a_folder(plan, monkeypatch):
    monkeypatch.setattr(runs, "LOCK_TIMEOUT", 0.3)
    with locked(plan.output), pytest.raises(RunsError, match="Another comparison is at work"):
        with locked(plan.output):
            pass
    with locked(plan.output):
        pass


def test_a_patient_comparison_waits_for_another(plan, monkeypatch):
    monkeypatch.setattr(runs, "LOCK_TIMEOUT", 0)
    with contextlib.ExitStack() as other:
        other.enter_context(locked(plan.output))
        monkeypatch.setattr(runs.time, "sleep", lambda seconds: other.close())
        with locked(plan.output, patient=True):
            pass


def test_a_folder_that_cannot_be_written_is_named(plan):
    plan.output.parent.mkdir(exist_ok=True)
    plan.output.touch()
    with pytest.raises(RunsError, match=f"{plan.output} cannot be written: File exists"):
        with locked(plan.output):
            pass


# A comparison of one run, which takes ten minutes.
PARENT = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from detectron2.config import CfgNode
from mutualnet_det.lab.comparison import locked, run_all

folder = Path(sys.argv[1])
child = "import pathlib, sys, time; pathlib.Path(sys.argv[1], 'at_work').touch()"
child += "; time.sleep(600)"
run = SimpleNamespace(
    folder=folder / "run", cfg=CfgNode({"MODEL": {"WEIGHTS": ""}}), points=(),
    gflops_per_step=1.0, steps=1,
    name="run", title="run",
)
run = type("Run", (), vars(run))()
with locked(folder) as lock:
    run_all([run], lambda run: [[sys.executable, "-c", child, str(run.folder)]], [{}], lock)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
def test_a_killed_comparison_takes_its_runs_with_it(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    try:
        while not (tmp_path / "run" / "at_work").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    with locked(tmp_path):  # its runs hold the lock too, for ten minutes if nobody ends them
        assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is False

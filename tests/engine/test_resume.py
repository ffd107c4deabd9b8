"""A training that is killed anywhere and resumed is, bit for bit, one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mutualnet_det.checkpoint import CheckpointError
from mutualnet_det.data.coco import check_datasets
from mutualnet_det.engine import MutualTrainer
from mutualnet_det.signals import EXIT_STOPPED

SCRIPT = "training_script.py"
KILLED = -signal.SIGKILL
ITERATIONS = 8
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make_cfg(make_training_cfg, tmp_path_factory):
    """A config with a checkpoint after 3 and 6 of 8 iterations."""

    def make(*overrides):
        cfg = make_training_cfg(tmp_path_factory.mktemp("run"))
        cfg.SOLVER.MAX_ITER = ITERATIONS
        cfg.SOLVER.CHECKPOINT_PERIOD = 3
        cfg.merge_from_list(list(overrides))
        return cfg

    return make


def final(cfg):
    return torch.load(f"{cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)


def last(cfg):
    path = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
    return path.read_text() if path.exists() else None


def assert_equal(one, other, path=""):
    """Equal bit for bit, whatever dicts, lists and tensors are in each other."""
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), path
    else:
        assert one == other, path


def assert_same_run(cfg, reference, read_metrics):
    assert_equal(final(cfg), final(reference))
    records = read_metrics(cfg.OUTPUT_DIR)
    assert [r["iteration"] for r in records] == list(range(ITERATIONS))
    assert records == read_metrics(reference.OUTPUT_DIR)


@pytest.fixture(scope="module")
def reference(make_cfg, run_script):
    """A training that nothing happened to."""
    cfg = make_cfg()
    assert run_script(SCRIPT, cfg=cfg) == 0
    return cfg


def test_reference_has_learned_and_calibrated(reference):
    saved = final(reference)
    early = torch.load(f"{reference.OUTPUT_DIR}/model_0000002.pth", weights_only=True)
    assert not torch.equal(
        saved["model"]["backbone.fpn_output2.weight"], early["model"]["backbone.fpn_output2.weight"]
    )
    assert set(saved["calibrations"]["points"]) == {"0.25x32", "0.25x64", "1.00x32", "1.00x64"}
    assert saved["trainer"]["iteration"] == ITERATIONS - 1


def test_killed_everywhere(make_cfg, reference, run_script, read_metrics):
    cfg = make_cfg()
    folder = Path(cfg.OUTPUT_DIR)

    def run(kill=None, iteration=None):
        return run_script(SCRIPT, cfg=cfg, resume=True, kill=kill, iteration=iteration)

    # Before the first checkpoint, then in the middle of writing it: both start from nothing again.
    assert run("step", 1) == KILLED
    assert run("write", 2) == KILLED
    assert last(cfg) is None and (folder / ".model_0000002.pth.draft").exists()
    # After a checkpoint; before one is written, with its iteration's record in the metrics;
    # written, but not yet the last.
    assert run("step", 4) == KILLED
    assert last(cfg) == "model_0000002.pth"
    assert run("save", 5) == KILLED
    assert read_metrics(folder)[-1]["iteration"] == 5
    assert run("tag", 5) == KILLED
    assert (folder / "model_0000005.pth").exists() and last(cfg) == "model_0000002.pth"
    assert run("step", 6) == KILLED
    assert last(cfg) == "model_0000005.pth"
    # In the middle of the final one.
    assert run("write", ITERATIONS - 1) == KILLED
    assert not (folder / "model_final.pth").exists()
    assert run() == 0
    assert last(cfg) == "model_final.pth"
    assert_same_run(cfg, reference, read_metrics)


def kill_at_random(make_cfg, start_script, reference, read_metrics, num_kills):
    """
    Kill trainings until ``num_kills`` have been, every other time in the middle of changing files.

    One that ends all the same is compared with the reference, and another one begun.
    """
    draw = random.Random(num_kills)
    seconds = 2.0  # that a training may take before it is killed
    killed, in_write, cfg = 0, 0, None
    while killed < num_kills or cfg is not None:
        cfg = cfg or make_cfg("SOLVER.CHECKPOINT_PERIOD", 1)
        job = {"cfg": cfg, "resume": True}
        if killed < num_kills and killed % 2 == 0:
            job["operation"] = draw.randrange(60)  # a checkpoint takes about 30
        start = time.monotonic()
        process = start_script(SCRIPT, **job)
        if killed < num_kills and killed % 2 == 1:
            process.join(draw.uniform(0, seconds))
            process.kill()
        process.join()
        if process.exitcode == 0:
            assert_same_run(cfg, reference, read_metrics)
            cfg = None
        else:
            assert process.exitcode == KILLED
            killed += 1
            in_write += any(Path(cfg.OUTPUT_DIR).glob(".model_*.draft"))
            seconds = max(seconds, time.monotonic() - start)
    assert in_write >= num_kills / 4


def test_killed_at_three_random_instants(make_cfg, start_script, reference, read_metrics):
    kill_at_random(make_cfg, start_script, reference, read_metrics, 3)


@pytest.mark.slow
def test_killed_at_twenty_random_instants(make_cfg, start_script, reference, read_metrics):
    kill_at_random(make_cfg, start_script, reference, read_metrics, 20)


# Asked to stop ------------------------------------------------------------------------------------


def test_asked_to_stop(make_cfg, reference, run_script, read_metrics):
    cfg = make_cfg()
    asked = {"signals": [signal.SIGTERM], "iteration": 4}
    assert run_script(SCRIPT, cfg=cfg, **asked) == EXIT_STOPPED
    assert last(cfg) == "model_0000004.pth"
    told = Path(cfg.OUTPUT_DIR, "stopped")
    assert told.read_text() == "SIGTERM after iteration 4\n"
    assert run_script(SCRIPT, cfg=cfg, resume=True) == 0
    assert not told.exists()
    assert_same_run(cfg, reference, read_metrics)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_asked_to_stop_with_the_loaders_workers(make_cfg, run_script, number):
    cfg = make_cfg("DATALOADER.NUM_WORKERS", 2, "MUTUALNET.METHOD", "independent")
    asked = {"signals": [number], "iteration": 1, "workers": True}
    assert run_script(SCRIPT, cfg=cfg, **asked) == EXIT_STOPPED
    assert last(cfg) == "model_0000001.pth"


def test_asked_twice_ends_at_once(make_cfg, run_script):
    cfg = make_cfg("MUTUALNET.METHOD", "independent")
    asked = {"signals": [signal.SIGUSR1, signal.SIGTERM], "iteration": 1}
    assert run_script(SCRIPT, cfg=cfg, **asked) == -signal.SIGTERM
    assert last(cfg) is None


def test_asked_before_the_first_step(make_cfg, run_script):
    cfg = make_cfg()
    assert run_script(SCRIPT, cfg=cfg, signals=[signal.SIGTERM]) == EXIT_STOPPED
    assert not list(Path(cfg.OUTPUT_DIR).glob("*.pth"))
    told = Path(cfg.OUTPUT_DIR, "stopped").read_text()
    assert told == "SIGTERM with nothing to save\n"


def test_tensorboard_shows_every_iteration_once(make_cfg, run_script):
    cfg = make_cfg("MUTUALNET.METHOD", "independent")
    assert run_script(SCRIPT, cfg=cfg, kill="step", iteration=5) == KILLED
    assert run_script(SCRIPT, cfg=cfg, resume=True) == 0
    events = EventAccumulator(cfg.OUTPUT_DIR)
    events.Reload()
    steps = [event.step for event in events.Scalars("full/total_loss")]
    assert sorted(set(steps)) == list(range(ITERATIONS))
    assert len(steps) == ITERATIONS


def test_loader_workers(make_cfg, reference, run_script, read_metrics):
    cfg = make_cfg("DATALOADER.NUM_WORKERS", 2)
    assert run_script(SCRIPT, cfg=cfg, kill="step", iteration=4) == KILLED
    assert run_script(SCRIPT, cfg=cfg, resume=True) == 0
    # The reference had none.
    assert_same_run(cfg, reference, read_metrics)


def test_frozen_statistics_between_refreshes(make_cfg, run_script, read_metrics):
    frozen = (
        *("MUTUALNET.STATISTICS", "frozen"),
        # Refreshed after 2, 4 and 6 iterations; resumed after 3.
        *("MUTUALNET.CALIBRATION.REFRESH_PERIOD", 2),
    )
    reference = make_cfg(*frozen)
    assert run_script(SCRIPT, cfg=reference) == 0
    cfg = make_cfg(*frozen)
    assert run_script(SCRIPT, cfg=cfg, kill="step", iteration=3) == KILLED
    assert last(cfg) == "model_0000002.pth"
    assert run_script(SCRIPT, cfg=cfg, resume=True) == 0
    assert_same_run(cfg, reference, read_metrics)


def test_adamw(make_cfg, run_script, read_metrics):
    options = "SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", 0.001
    reference = make_cfg(*options)
    assert run_script(SCRIPT, cfg=reference) == 0
    cfg = make_cfg(*options)
    assert run_script(SCRIPT, cfg=cfg, kill="step", iteration=4) == KILLED
    assert run_script(SCRIPT, cfg=cfg, resume=True) == 0
    assert_same_run(cfg, reference, read_metrics)


def test_seed_of_the_clock_is_kept(make_cfg, run_script, read_metrics):
    cfg = make_cfg("SEED", -1, "SOLVER.MAX_ITER", 4, "MUTUALNET.METHOD", "independent")
    assert run_script(SCRIPT, cfg=cfg, kill="step", iteration=3) == KILLED
    before = read_metrics(cfg.OUTPUT_DIR)
    seed = torch.load(f"{cfg.OUTPUT_DIR}/model_0000002.pth", weights_only=True)["trainer"]["seed"]
    assert run_script(SCRIPT, cfg=cfg, resume=True) == 0
    assert final(cfg)["trainer"]["seed"] == seed
    assert read_metrics(cfg.OUTPUT_DIR)[:3] == before


def test_tool_killed_at_any_time(make_cfg, reference):
    """The same with tools/train_net.py itself, killed from outside, at any time."""
    cfg = make_cfg()
    config_file = Path(cfg.OUTPUT_DIR) / "mine.yaml"
    config_file.write_text(cfg.dump())
    command = [sys.executable, "tools/train_net.py", "--config-file", str(config_file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    output = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    while process.poll() is None and last(cfg) is None:
        time.sleep(0.05)
    time.sleep(random.random())
    process.kill()
    assert process.wait() == KILLED
    subprocess.run([*command, "--resume"], cwd=ROOT, env=environment, check=True, stdout=output)
    assert_equal(final(cfg), final(reference))


# Without a process of its own -----------------------------------------------------------------


@pytest.fixture
def interrupted(make_cfg, reference):
    """The folder of a run of 6 iterations."""
    cfg = make_cfg()
    source = Path(reference.OUTPUT_DIR)
    for name in ("model_0000002.pth", "model_0000005.pth"):
        (Path(cfg.OUTPUT_DIR) / name).write_bytes((source / name).read_bytes())
    (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000005.pth")
    check_datasets(cfg)
    return cfg


def test_damaged_checkpoint_is_named_and_the_one_before_it_taken(interrupted, caplog):
    path = Path(interrupted.OUTPUT_DIR) / "model_0000005.pth"
    path.write_bytes(path.read_bytes()[:-1000])
    trainer = MutualTrainer(interrupted)
    trainer.resume_or_load(True)
    assert trainer.start_iter == 3
    warning, taken = [r.getMessage() for r in caplog.records if r.name.endswith(".run_folder")]
    assert str(path) in warning and "truncated" in warning
    assert taken == f"Going on from {path.parent / 'model_0000002.pth'} instead."


def test_no_good_checkpoint_is_an_error(interrupted):
    folder = Path(interrupted.OUTPUT_DIR)
    (folder / "model_0000005.pth").unlink()
    (folder / "model_0000002.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="_0000005.pth is missing; .*_0000002.pth .*0 bytes"):
        MutualTrainer(interrupted).resume_or_load(True)


def test_damaged_final_checkpoint_is_made_again(make_cfg, reference, caplog):
    cfg = make_cfg()
    folder, source = Path(cfg.OUTPUT_DIR), Path(reference.OUTPUT_DIR)
    for path in (*source.glob("*.pth"), source / "last_checkpoint", source / "checkpoints.sha256"):
        (folder / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / "model_final.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model_final.pth").write_bytes(content)
    check_datasets(cfg)
    trainer = MutualTrainer(cfg)
    trainer.resume_or_load(True)
    trainer.train()
    assert "SHA-256" in caplog.text
    assert_equal(final(cfg), final(reference))


def test_weights_alone_cannot_be_resumed(interrupted):
    path = Path(interrupted.OUTPUT_DIR) / "model_0000005.pth"
    torch.save({"model": torch.load(path, weights_only=True)["model"]}, path)
    with pytest.raises(CheckpointError, match=f"{path} holds no 'trainer'"):
        MutualTrainer(interrupted).resume_or_load(True)


def test_resuming_with_other_frozen_stages_is_refused(interrupted):
    interrupted.MODEL.BACKBONE.FREEZE_AT = 2
    path = Path(interrupted.OUTPUT_DIR) / "model_0000005.pth"
    with pytest.raises(CheckpointError, match=f"{path}: its 'trainer' does not fit"):
        MutualTrainer(interrupted).resume_or_load(True)


def test_resuming_with_another_optimiser_is_refused(interrupted):
    interrupted.SOLVER.OPTIMIZER = "ADAMW"
    path = Path(interrupted.OUTPUT_DIR) / "model_0000005.pth"
    message = f"{path}: its 'trainer' does not fit.*SOLVER.OPTIMIZER is now 'ADAMW'"
    with pytest.raises(CheckpointError, match=message):
        MutualTrainer(interrupted).resume_or_load(True)


@pytest.mark.parametrize("decay", [0.0, None])
def test_resuming_with_other_groups_of_weights_is_refused(interrupted, decay):
    """At 0, convolutions decay as norms do: fewer groups. At None, biases as convolutions do."""
    key = "WEIGHT_DECAY_BIAS" if decay is None else "WEIGHT_DECAY"
    setattr(interrupted.SOLVER, key, decay)
    with pytest.raises(CheckpointError, match="SOLVER.WEIGHT_DECAY, .* other groups of weights"):
        MutualTrainer(interrupted).resume_or_load(True)


def test_resuming_with_another_schedule_takes_it_from_the_first_step_on(interrupted):
    interrupted.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    interrupted.SOLVER.STEPS = (2,)
    interrupted.SOLVER.GAMMA = 0.125
    interrupted.SOLVER.WARMUP_ITERS = 0
    trainer = MutualTrainer(interrupted)
    trainer.resume_or_load(True)
    rate = 0.125 * interrupted.SOLVER.BASE_LR
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {rate}


def test_resuming_with_another_learning_rate_takes_it(interrupted, caplog):
    interrupted.SOLVER.BASE_LR /= 10
    interrupted.SOLVER.MOMENTUM = 0.5
    interrupted.SOLVER.WEIGHT_DECAY = 0.01
    trainer = MutualTrainer(interrupted)
    fresh = [(group["lr"], group["weight_decay"]) for group in trainer.optimizer.param_groups]
    trainer.resume_or_load(True)
    base = interrupted.SOLVER.BASE_LR
    groups = trainer.optimizer.param_groups
    assert {group["momentum"] for group in groups} == {0.5}
    assert [group["weight_decay"] for group in groups] == [decay for _, decay in fresh]
    assert trainer.scheduler.base_lrs == [base] * len(groups)
    # The schedule goes on: its factor is that of iteration 6.
    factor = trainer.scheduler._multiplier(6 / interrupted.SOLVER.MAX_ITER)
    assert [group["lr"] for group in groups] == pytest.approx([base * factor] * len(groups))
    assert f"initial_lr was {10 * base:g} and is {base:g}" in caplog.text


def test_a_lower_number_of_iterations_does_not_turn_back(interrupted):
    interrupted.SOLVER.MAX_ITER = 4
    interrupted.TEST.EVAL_PERIOD = 3
    trainer = MutualTrainer(interrupted)
    trainer.resume_or_load(True)
    trainer.train()
    assert final(interrupted)["trainer"]["iteration"] == 5
    # What is evaluated is filed under the iterations that it has had.
    assert os.listdir(Path(interrupted.OUTPUT_DIR) / "eval") == ["0000006"]


def test_resume_continues_where_it_was(interrupted):
    trainer = MutualTrainer(interrupted)
    trainer.resume_or_load(True)
    assert trainer.start_iter == 6
    assert trainer.scheduler.last_epoch == 6
    momenta = [state["momentum_buffer"] for state in trainer.optimizer.state.values()]
    assert momenta and all(momentum.abs().sum() > 0 for momentum in momenta[:3])


def test_resume_of_a_complete_run_does_nothing(make_cfg, reference, caplog):
    check_datasets(reference)
    before = {p.name: p.stat().st_mtime_ns for p in Path(reference.OUTPUT_DIR).iterdir()}
    trainer = MutualTrainer(reference)
    trainer.resume_or_load(True)
    trainer.run_step = None
    with caplog.at_level("INFO", logger="mutualnet_det"):
        trainer.train()
    assert "complete" in caplog.text
    assert before == {p.name: p.stat().st_mtime_ns for p in Path(reference.OUTPUT_DIR).iterdir()}

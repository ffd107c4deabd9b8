"""What is kept of the best evaluation, and the end of a training that gets no better."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mutualnet_det.checkpoint import load_detector
from mutualnet_det.config import ConfigError, eval_points, load_config
from mutualnet_det.engine import periodic_evaluation
from mutualnet_det.engine.best import Best
from mutualnet_det.evaluation import Grid, GridRow
from mutualnet_det.evaluation.cost import Cost
from mutualnet_det.evaluation.scoring import AP_METRICS
from mutualnet_det.runtime import Latency

QUICK = (
    *("MUTUALNET.METHOD", "independent", "MUTUALNET.CALIBRATION.NUM_IMAGES", 2),
    *("TEST.EVAL_PERIOD", 1, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_ITER", 6),
)


def test_best_score_and_how_many_were_no_better():
    best = Best()
    taken = [best.take(score, number) for number, score in enumerate((3.0, 3.0, 5.0, 4.0), 1)]
    assert taken == [True, False, True, False]
    assert best == Best(score=5.0, iterations=3, evaluated=4, num_worse=1)
    # One that is told twice, after a resume, counts once.
    assert not best.take(9.0, 4)
    assert best == Best(score=5.0, iterations=3, evaluated=4, num_worse=1)


@pytest.fixture
def evaluations(monkeypatch):
    """
    What stands for evaluations: ``scores`` tells the AP at the first point, by the iterations done;
    at each further point it is 2 higher. ``done`` lists those that took place.
    """
    told = SimpleNamespace(scores={}, done=[])

    def evaluate(cfg, model, calibrations, points, folder):
        done = int(Path(folder).name)
        told.done.append(done)
        rows = [
            GridRow(
                point,
                Cost({"network": 1.0}, {}, 0, {"network": 1}),
                0.0,
                {"cpu": Latency(1.0, 1.0)},
                {"box": dict.fromkeys(AP_METRICS, told.scores[done] + 2 * number)},
            )
            for number, point in enumerate(points)
        ]
        run = {"dataset": "shapes", "weights_fingerprint": calibrations.fingerprint()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        grid = Grid(tuple(rows), run)
        grid.save(Path(folder))
        return grid

    monkeypatch.setattr(periodic_evaluation, "evaluate_grid", evaluate)
    return told


def read(mutual, name):
    return torch.load(Path(mutual.cfg.OUTPUT_DIR) / f"{name}.pth", weights_only=True)


def sums(mutual):
    """Each checkpoint's SHA-256: equal for equal content."""
    lines = (Path(mutual.cfg.OUTPUT_DIR) / "checkpoints.sha256").read_text().splitlines()
    return {name: value for value, name in (line.split("  ") for line in lines)}


def test_best_of_several_points_is_kept_as_it_was_evaluated(build, evaluations):
    evaluations.scores = {1: 10.0, 2: 30.0, 3: 20.0, 4: 30.0}
    points = ("0.25x32", "1.0x64")
    options = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 1, "MUTUALNET.EVAL_POINTS", points)
    mutual = build(*QUICK, *options, "MUTUALNET.METHOD", "mutual")
    mutual.train()
    best = read(mutual, "model_best")
    expected = {"score": 31.0, "iterations": 2, "points": ["0.25x32", "1.00x64"]}
    assert best["best"] == expected and list(best["calibrations"]["points"]) == expected["points"]
    for name, weight in read(mutual, "model_0000001")["model"].items():
        assert torch.equal(weight, best["model"][name]), name
    assert mutual.storage.history("box/AP-mean").latest() == 31.0
    # It stands beside the others, loads as they do, and is none that a training goes on from.
    _, calibrations = load_detector(mutual.cfg, f"{mutual.cfg.OUTPUT_DIR}/model_best.pth")
    assert sorted(calibrations) == eval_points(mutual.cfg)
    assert "model_best.pth" in sums(mutual) and "trainer" not in best
    assert (Path(mutual.cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_final.pth"


def test_training_ends_when_it_has_got_no_better_for_long_enough(build, evaluations, caplog):
    evaluations.scores = {1: 10.0, 2: 30.0, 3: 20.0, 4: 30.0}
    options = (*QUICK, "MUTUALNET.PATIENCE", 2)
    mutual = build(*options)
    with caplog.at_level("INFO"):
        mutual.train()
    assert evaluations.done == [1, 2, 3, 4]
    assert read(mutual, "model_final")["trainer"]["iteration"] == 3
    assert "(30.0) was after 2 iterations; model_best.pth has its weights. No later one of 2 w" in (
        caplog.text
    )
    assert "Exception during training" not in caplog.text
    assert not any(message.startswith("5/6") for message in caplog.messages)  # no fifth iteration
    # That is its end: nothing is left to do for a resume. With more patience, there is.
    before = sums(mutual)
    resumed = build(*options)
    resumed.resume_or_load(True)
    resumed.train()
    assert evaluations.done == [1, 2, 3, 4] and sums(resumed) == before
    evaluations.scores |= {5: 40.0, 6: 20.0}
    longer = build(*options, "MUTUALNET.PATIENCE", 3)
    longer.resume_or_load(True)
    longer.train()
    assert evaluations.done == [1, 2, 3, 4, 5, 6]
    assert read(longer, "model_best")["best"]["iterations"] == 5


@pytest.mark.parametrize("stop", [2, 3])
def test_killed_and_resumed_ends_as_undisturbed(build, evaluations, stop):
    """
    Weights, their average, the best and the patience. The checkpoint after 2 iterations was saved
    before their evaluation, the best one until then.
    """
    evaluations.scores = {1: 10.0, 2: 30.0, 3: 20.0, 4: 25.0, 5: 29.0, 6: 35.0}
    options = (*QUICK, "MUTUALNET.PATIENCE", 3, "MUTUALNET.EMA_DECAY", 0.5)
    options += ("MUTUALNET.MICRO_BATCHES", 2)
    whole = build(*options)
    whole.train()
    assert evaluations.done == [1, 2, 3, 4, 5]
    expected = sums(whole)

    folder = f"{whole.cfg.OUTPUT_DIR}/killed"
    Path(folder).mkdir()
    killed = build(*options, "OUTPUT_DIR", folder)
    train_on = killed.train_on

    def until_stop(batch):
        if killed.iter == stop:
            raise KeyboardInterrupt
        train_on(batch)

    killed.train_on = until_stop
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = build(*options, "OUTPUT_DIR", folder)
    resumed.resume_or_load(True)
    resumed.train()
    assert sums(resumed) == expected


def test_other_points_begin_a_new_best(build, evaluations, caplog):
    evaluations.scores = {1: 50.0, 2: 10.0, 3: 20.0, 4: 30.0}
    mutual = build(*QUICK, "SOLVER.MAX_ITER", 2)
    mutual.train()
    resumed = build(*QUICK, "SOLVER.MAX_ITER", 4, "MUTUALNET.EVAL_POINTS", ("1.0x32",))
    resumed.resume_or_load(True)
    resumed.train()
    assert "1.00x64, which is no longer what is evaluated" in caplog.text
    assert read(resumed, "model_best")["best"]["iterations"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("MUTUALNET.PATIENCE", "3"), r"TEST.EVAL_PERIOD is 0; expected a period"),
        (("MUTUALNET.PATIENCE", "-1"), r"MUTUALNET.PATIENCE is -1; expected at least 0"),
        (("MUTUALNET.EVAL_POINTS", "('0.1x64',)"), r"MUTUALNET.EVAL_POINTS is .*width 0.1 is out"),
        (("MUTUALNET.EVAL_POINTS", "('big',)"), r"MUTUALNET.EVAL_POINTS is \('big',\)"),
        (
            ("MUTUALNET.EVAL_POINTS", "(0.5,)"),
            r"EVAL_POINTS is \(0.5,\)\. '0.5' is not an operating point",
        ),
        (("MUTUALNET.EVAL_POINTS", "('1x64', '1x64')"), r"Operating point 1.00x64 is given twice"),
        (("MUTUALNET.EMA_DECAY", "1.0"), r"MUTUALNET.EMA_DECAY is 1.0; expected a number from 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart_shapes", options)

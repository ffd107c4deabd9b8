"""What is not finite does not reach the weights: it stops the training, or a step is left out."""

import functools
import json
import math
from pathlib import Path

import pytest
import torch

from mutualnet_det.engine.finite import SkippedSteps, not_finite

PARAMETER = "backbone.fpn_output3.weight"


@pytest.fixture
def build(build_resumed):
    """A trainer with a record and a checkpoint of every iteration."""
    return functools.partial(build_resumed, "SOLVER.CHECKPOINT_PERIOD", 1)


def break_gradient(mutual, *iterations, value=math.nan):
    """Make one value of one parameter's gradient not finite; all losses stay what they are."""

    def change(gradient):
        if mutual.iter in iterations:
            gradient = gradient.clone()
            gradient[0, 0, 0, 0] = value
        return gradient

    mutual.model.get_parameter(PARAMETER).register_hook(change)


def parameters(mutual, iteration):
    """The parameters as they were saved after an iteration."""
    path = Path(mutual.cfg.OUTPUT_DIR, f"model_{iteration:07d}.pth")
    saved = torch.load(path, weights_only=True)["model"]
    return {name: saved[name] for name, _ in mutual.model.named_parameters()}


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def records(mutual):
    lines = Path(mutual.cfg.OUTPUT_DIR, "metrics.json").read_text().splitlines()
    return {record["iteration"]: record for record in map(json.loads, lines)}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradient_that_is_not_finite(build, value):
    mutual = build()
    break_gradient(mutual, 2, value=value)
    with pytest.raises(FloatingPointError) as error:
        mutual.train()
    last = f"{mutual.cfg.OUTPUT_DIR}/model_0000001.pth"
    for text in (PARAMETER, "iteration 2", last, "SOLVER.BASE_LR", "MUTUALNET.SKIPPED_STEPS"):
        assert text in str(error.value)
    now = {name: p.detach() for name, p in mutual.model.named_parameters()}
    assert same(parameters(mutual, 1), now)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler")
def test_step_is_left_out(build, caplog):
    mutual = build("MUTUALNET.SKIPPED_STEPS", 1)
    break_gradient(mutual, 0, 2)
    mutual.train()
    assert same(parameters(mutual, 1), parameters(mutual, 2))
    assert not same(parameters(mutual, 0), parameters(mutual, 1))
    assert not same(parameters(mutual, 2), parameters(mutual, 3))
    assert [record["skipped_steps"] for record in records(mutual).values()] == [1, 1, 2, 2]
    assert caplog.text.count(f"The gradient of {PARAMETER} is not finite") == 2


def test_too_many_in_a_row(build):
    mutual = build("MUTUALNET.SKIPPED_STEPS", 1)
    break_gradient(mutual, 1, 2)
    with pytest.raises(FloatingPointError, match=f"{PARAMETER}.*after 1 in a row in iteration 2"):
        mutual.train()
    # The counts go on where they were.
    mutual = build("MUTUALNET.SKIPPED_STEPS", 1)
    break_gradient(mutual, 2)
    with pytest.raises(FloatingPointError, match="after 1 in a row in iteration 2"):
        mutual.train()
    mutual = build("MUTUALNET.SKIPPED_STEPS", 1)
    break_gradient(mutual, 3)
    mutual.train()
    assert records(mutual)[3]["skipped_steps"] == 2


def test_step_of_a_loss_that_is_not_finite_is_left_out(build, monkeypatch, caplog):
    mutual = build("MUTUALNET.SKIPPED_STEPS", 1)
    teach = mutual.model.teach

    def fail(view):
        losses, teacher = teach(view)
        if mutual.iter == 1:
            losses["loss_mask"] = losses["loss_mask"] + math.inf  # its gradient is finite
        return losses, teacher

    monkeypatch.setattr(mutual.model, "teach", fail)
    mutual.train()
    assert same(parameters(mutual, 0), parameters(mutual, 1))
    assert "loss_mask is inf at operating point 1.00x64 (full)" in caplog.text
    text = Path(mutual.cfg.OUTPUT_DIR, "metrics.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    assert "full/total_loss" not in records(mutual)[1]


def test_statistics_that_are_not_finite_cannot_be_left_out():
    norm = torch.nn.BatchNorm2d(2)
    steps = SkippedSteps(5)
    steps.add("a loss is nan", norm)
    norm.running_var[0] = math.inf
    with pytest.raises(FloatingPointError, match="a loss is nan, and so is running_var"):
        steps.add("a loss is nan", norm)


@pytest.mark.filterwarnings("ignore:CUDA is not available", "ignore:Detected call of `lr_sch")
def test_a_scaler_finds_its_scale(build, caplog):
    """An infinite gradient is how it does; it is no reason to stop."""
    mutual = build("MUTUALNET.METHOD", "independent", "SOLVER.MAX_ITER", 6)
    mutual._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    mutual._skipped_steps = SkippedSteps(30)
    mutual.train()
    count = records(mutual)[5]["skipped_steps"]
    assert 0 < count < 6
    assert mutual._scaler.get_scale() == 2.0 ** (127 - count)
    assert not_finite(mutual.model.state_dict().items()) is None

"""Gradients that add up over micro-batches: those of the whole batch, in one step."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from mutualnet_det.engine import trainer
from mutualnet_det.engine.losses import StepLosses
from mutualnet_det.engine.sampling import FULL

# What makes every image count the same, and nothing be left to chance: all anchors and proposals
# are learned from, and there are as many proposals of each image. A mask's loss would be a mean
# over the objects of all images.
ALIKE = (
    *("MODEL.MASK_ON", False, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 10),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 5000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 5000),
)


@pytest.fixture
def step(build, training_batch):
    """Takes a step on four noise images; returns the trainer and its gradients before the step."""

    def take(count, *overrides):
        options = ("SOLVER.IMS_PER_BATCH", 4, "MUTUALNET.MICRO_BATCHES", count)
        mutual = build(*options, *overrides)
        mutual.prepare(0)
        for statistics in mutual.calibrations._points.values():  # calibrated in float32
            for norm, (mean, variance) in statistics.items():
                statistics[norm] = mean.to(norm.weight), variance.to(norm.weight)
        mutual.iter = 0
        batch = training_batch(sizes=((64, 96),) * 4, objects=(3,) * 4)
        with EventStorage(0) as mutual.storage:
            mutual.train_on([{**item, "skipped": []} for item in batch])
        return mutual, {name: p.grad.clone() for name, p in mutual.model.named_parameters()}

    return take


@pytest.mark.parametrize(
    "norm",
    [("MUTUALNET.NORM", "GN"), ("MUTUALNET.STATISTICS", "frozen", "MUTUALNET.RESOLUTIONS", (64,))],
    ids=["GN", "frozen"],
)
def test_gradients_are_those_of_the_whole_batch(step, in_float64, norm):
    options = (*ALIKE, *norm, "SOLVER.CLIP_GRADIENTS.ENABLED", False)
    whole, expected = step(1, *options)
    parts, gradients = step(2, *options)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    # So are the losses, and what they are means of.
    told = parts.storage.latest()
    for name, (value, _) in whole.storage.latest().items():
        if name.endswith("total_loss"):
            assert told[name][0] == pytest.approx(value, rel=1e-6), name


def test_micro_batches_share_points_and_the_step(step, monkeypatch):
    seen, calls = [], []
    monkeypatch.setattr(trainer, "reduce_gradients", lambda *_: calls.append("reduce"))
    backpropagate = trainer.MutualTrainer._backpropagate

    def watch(self, batch, passes, micro_batch, losses):
        seen.append((micro_batch, [item["file_name"] for item in batch], list(passes)))
        return backpropagate(self, batch, passes, micro_batch, losses)

    monkeypatch.setattr(trainer.MutualTrainer, "_backpropagate", watch)
    # In half precision too.
    step(2, "SOLVER.AMP.ENABLED", True, "MUTUALNET.AMP_DTYPE", "bfloat16")
    (first, images, points), (second, others, same_points) = seen
    assert (first, second) == (0, 1)
    assert images == ["noise_0.png", "noise_2.png"] and others == ["noise_1.png", "noise_3.png"]
    assert points == same_points and points[0].kind == FULL
    assert calls == ["reduce"]


def test_the_micro_batches_of_two_processes_draw_as_four_processes(
    step, training_batch, monkeypatch
):
    """The second process's second one has the fourth share of the batch, and its random stream."""
    mutual, _ = step(2)
    streams = []
    monkeypatch.setattr(trainer, "stream_seed", lambda *keys: streams.append(keys) or 0)
    monkeypatch.setattr(trainer.comm, "get_rank", lambda: 1)
    monkeypatch.setattr(trainer.comm, "get_world_size", lambda: 2)
    with EventStorage(0) as mutual.storage:
        mutual._backpropagate(training_batch(), mutual._points(0), 1, StepLosses())
    assert [share for *_, share, _ in streams] == [3, 3, 3]

"""The training step: four passes, one step; what stops it, and what is left when it stops."""

import copy
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mutualnet_det import calibration
from mutualnet_det.checkpoint import load_detector
from mutualnet_det.config import ConfigError, grid_points
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.loader import build_training_loader
from mutualnet_det.data.views import view_at
from mutualnet_det.engine import trainer
from mutualnet_det.engine.sampling import FULL, build_sampler
from mutualnet_det.evaluation import Grid, evaluate_grid
from mutualnet_det.seeding import stream_seed
from mutualnet_det.slimmable import OperatingPoint, SlimmableBatchNorm2d, at_width

PASS_KINDS = ("full", "narrowest", "random")


@pytest.fixture
def run_steps():
    """Runs single iterations, without hooks; returns the metrics of the last."""

    def run(mutual, *iterations):
        mutual.prepare(iterations[0])
        with EventStorage(iterations[0]) as mutual.storage:
            for mutual.iter in iterations:
                mutual.storage.iter = mutual.iter
                mutual.run_step()
            return {name: value for name, (value, _) in mutual.storage.latest().items()}

    return run


def weights(mutual):
    return {name: p.detach().clone() for name, p in mutual.model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def records(folder):
    lines = (Path(folder) / "metrics.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


# The step ----------------------------------------------------------------------------------------


def test_a_shared_seed_is_drawn_when_all_processes_are_there(tiny_cfg, monkeypatch):
    """The trainer is made where errors are shared, in which no process may wait for another."""
    draws = []
    monkeypatch.setattr("detectron2.utils.comm.shared_random_seed", lambda: draws.append(5) or 5)
    tiny_cfg.SEED = -1
    mutual = trainer.MutualTrainer(tiny_cfg)
    assert draws == []
    mutual.prepare(0)
    assert mutual.seed == 5 == mutual.state_dict()["seed"]
    mutual.prepare(1)
    assert draws == [5]


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_gradients_of_all_passes_make_one_step(build, run_steps, weight):
    options = "SOLVER.CLIP_GRADIENTS.ENABLED", False, "MUTUALNET.SUBNETWORK_WEIGHT", weight
    mutual = build(*options, "MUTUALNET.NUM_RANDOM", 2)
    model = copy.deepcopy(mutual.model)
    before = weights(mutual)
    run_steps(mutual, 5)

    cfg, seed, iteration = mutual.cfg, mutual.seed, 5
    batch = next(iter(build_training_loader(cfg, seed, iteration)))
    passes = build_sampler(cfg, seed)(iteration)
    assert len(passes) == 4
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    teacher = None
    for number, (kind, point) in enumerate(passes):
        model.zero_grad()
        torch.manual_seed(stream_seed("heads", seed, iteration, 0, number))
        view = view_at(batch, point.resolution, cfg.INPUT.MAX_SIZE_TRAIN)
        with at_width(model, point.width), EventStorage():
            if kind == FULL:
                losses, teacher = model.teach(view)
            else:
                losses = model.study(view, teacher)
            sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                expected[name] += (1 if kind == FULL else weight) * parameter.grad

    for name, parameter in mutual.model.named_parameters():
        scale = expected[name].abs().max() + 1e-6
        assert (parameter.grad - expected[name]).abs().max() < 1e-4 * scale, name
    decay = {p: g["weight_decay"] for g in mutual.optimizer.param_groups for p in g["params"]}
    rate = mutual.optimizer.param_groups[0]["lr"]
    for name, parameter in mutual.model.named_parameters():
        step = -rate * (parameter.grad + decay[parameter] * before[name])
        torch.testing.assert_close(parameter.detach(), before[name] + step)


def test_one_step_and_one_reduction_per_iteration(build, run_steps, monkeypatch):
    mutual = build()
    calls = []
    monkeypatch.setattr(trainer, "reduce_gradients", lambda *_: calls.append("reduce"))
    for name in ("zero_grad", "step"):
        original = getattr(mutual.optimizer, name)
        monkeypatch.setattr(
            mutual.optimizer, name, lambda *_, n=name, o=original: (calls.append(n), o())
        )
    run_steps(mutual, 0)
    assert calls == ["zero_grad", "reduce", "step"]


AUGMENTED = (
    *("MUTUALNET.AUGMENTATION.SCALE", (0.5, 2.0), "MUTUALNET.AUGMENTATION.ROTATION", 30),
    *("MUTUALNET.AUGMENTATION.BRIGHTNESS", 0.5, "MUTUALNET.AUGMENTATION.LIGHTING", 0.1),
)


@pytest.mark.parametrize("more", [(), AUGMENTED], ids=["flipped", "augmented"])
def test_every_pass_sees_the_same_images_at_its_own_resolution(build, run_steps, monkeypatch, more):
    mutual = build("MUTUALNET.NUM_RANDOM", 2, "INPUT.RANDOM_FLIP", "horizontal", *more)
    seen = []
    preprocess = mutual.model.preprocess_image

    def watch(batch):
        seen.append([item["image"] for item in batch])
        return preprocess(batch)

    monkeypatch.setattr(mutual.model, "preprocess_image", watch)
    run_steps(mutual, 3)
    points = [p.point for p in build_sampler(mutual.cfg, mutual.seed)(3)]
    assert [min(image.shape[-2:]) for images in seen for image in images] == [
        point.resolution for point in points for _ in range(2)
    ]
    small = [
        [torch.nn.functional.interpolate(x[None], (8, 8), mode="area") for x in images]
        for images in seen
    ]
    for images in small[1:]:
        for one, other in zip(images, small[0], strict=True):
            assert (one - other).abs().mean() < 6  # of 255; a flip or another image: above 20
    assert (small[0][0] - small[0][1]).abs().mean() > 20


def test_only_the_full_pass_updates_running_statistics(build, run_steps):
    mutual = build()
    run_steps(mutual, 0, 1, 2)
    counts = {
        int(module.num_batches_tracked)
        for module in mutual.model.modules()
        if isinstance(module, SlimmableBatchNorm2d)
    }
    assert counts == {3}


def test_what_happened_before_does_not_matter(build, run_steps):
    one, other = build(), build()
    run_steps(one, 4)
    torch.rand(17)
    np.random.rand(5)
    run_steps(other, 4)
    assert same(weights(one), weights(other))


def test_seed_matters(build, run_steps):
    one, other = build(), build("SEED", 1)
    run_steps(one, 4)
    run_steps(other, 4)
    assert not same(weights(one), weights(other))


def test_independent_trains_the_full_network_alone(build, run_steps, monkeypatch):
    mutual = build("MUTUALNET.METHOD", "independent")
    monkeypatch.setattr(mutual.model, "study", None)
    metrics = run_steps(mutual, 0)
    assert {name.split("/")[0] for name in metrics} == {"full", "gradient_norm"}
    assert math.isfinite(metrics["full/total_loss"])


@pytest.mark.parametrize("number", [0, 2])
def test_number_of_random_networks(build, run_steps, number):
    metrics = run_steps(build("MUTUALNET.NUM_RANDOM", number), 0)
    assert ("random/total_loss" in metrics) == (number > 0)
    assert "narrowest/total_loss" in metrics


def test_metrics_by_kind_add_up(build, run_steps):
    metrics = run_steps(build(), 0)
    ground_truth = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    taught = {"loss_distill_class", "loss_distill_box", "loss_distill_mask"}
    for kind, expected in (
        ("full", ground_truth),
        ("narrowest", ground_truth | taught),
        ("random", ground_truth | taught),
    ):
        losses = {n.split("/")[1]: v for n, v in metrics.items() if n.startswith(f"{kind}/loss")}
        assert set(losses) == expected
        assert metrics[f"{kind}/total_loss"] == pytest.approx(sum(losses.values()))


def test_metrics_are_the_mean_over_passes_of_a_kind(build, run_steps, monkeypatch):
    mutual = build("MUTUALNET.NUM_RANDOM", 2)
    values = iter([5.0, 1.0, 3.0])
    weight = mutual.model.backbone.fpn_output2.weight
    monkeypatch.setattr(
        mutual.model, "study", lambda *_: {"loss_cls": weight.sum() * 0 + next(values)}
    )
    metrics = run_steps(mutual, 0)
    assert metrics["narrowest/loss_cls"] == metrics["narrowest/total_loss"] == 5
    assert metrics["random/loss_cls"] == metrics["random/total_loss"] == 2


@pytest.mark.parametrize("scope", ["backbone", "neck", "heads"])
def test_papers_setting_in_every_scope(build, run_steps, scope):
    mutual = build(
        *("MUTUALNET.SCOPE", scope, "MUTUALNET.PROPOSALS", "own"),
        *("MUTUALNET.LOSS_WEIGHTS.CLASS", 0.0, "MUTUALNET.LOSS_WEIGHTS.BOX", 0.0),
        *("MUTUALNET.LOSS_WEIGHTS.MASK", 0.0),
    )
    metrics = run_steps(mutual, 0)
    assert not [name for name in metrics if "distill" in name]
    assert math.isfinite(metrics["narrowest/loss_rpn_cls"])
    assert all(p.grad.abs().sum() > 0 for p in mutual.model.parameters())


def test_own_proposals_with_a_teacher(build, run_steps):
    metrics = run_steps(build("MUTUALNET.PROPOSALS", "own"), 0)
    assert metrics["narrowest/loss_distill_class"] > 0


def test_without_masks(build, run_steps):
    metrics = run_steps(build("MODEL.MASK_ON", False), 0)
    assert not [name for name in metrics if "mask" in name]


def test_images_without_objects(build, run_steps, training_cfg, tmp_path):
    name, json_file, image_root = training_cfg.DATASETS.COCO_FORMAT[0]
    data = json.loads(Path(json_file).read_text())
    kept = data["images"][0]["id"]
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] == kept]
    path = tmp_path / "mostly_empty.json"
    path.write_text(json.dumps(data))
    mutual = build(
        *("DATASETS.COCO_FORMAT", [["mostly_empty", str(path), image_root]]),
        *("DATASETS.TRAIN", ("mostly_empty",), "DATASETS.TEST", ()),
        *("DATALOADER.FILTER_EMPTY_ANNOTATIONS", False, "MUTUALNET.PROPOSALS", "own"),
    )
    batches = build_training_loader(mutual.cfg, mutual.seed, 0)
    number = next(n for n, b in enumerate(batches) if not sum(len(x["instances"]) for x in b))
    before = weights(mutual)
    metrics = run_steps(mutual, number)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["full/loss_mask"] == metrics["narrowest/loss_distill_mask"] == 0
    assert metrics["full/loss_rpn_cls"] > 0
    # Nothing to segment is no reason to stop: the rest learns.
    changed = {name for name, value in weights(mutual).items() if not value.equal(before[name])}
    assert "proposal_generator.rpn_head.objectness_logits.weight" in changed
    assert all(value.isfinite().all() for value in weights(mutual).values())


# Whole trainings ---------------------------------------------------------------------------------


def test_training_writes_metrics_of_every_kind(build, every_iteration):
    mutual = build("SOLVER.MAX_ITER", 3, "SOLVER.WARMUP_ITERS", 1, "SOLVER.WARMUP_FACTOR", 0.5)
    mutual.resume_or_load()
    mutual.train()
    lines = records(mutual.cfg.OUTPUT_DIR)
    assert [record["iteration"] for record in lines] == [0, 1, 2]
    for kind in PASS_KINDS:
        assert all(math.isfinite(record[f"{kind}/total_loss"]) for record in lines)
        assert all(f"{kind}/loss_rpn_cls" in record for record in lines)
    # Warm-up, then the cosine.
    rates = [record["lr"] for record in lines]
    assert np.divide(rates, mutual.cfg.SOLVER.BASE_LR) == pytest.approx([0.5, 0.75, 0.25])
    events = EventAccumulator(mutual.cfg.OUTPUT_DIR)
    events.Reload()
    for kind in PASS_KINDS:
        steps = [(event.step, event.value) for event in events.Scalars(f"{kind}/total_loss")]
        assert [step for step, _ in steps] == [0, 1, 2]
        assert steps[0][1] == pytest.approx(lines[0][f"{kind}/total_loss"])


def test_final_checkpoint_is_calibrated_for_the_grid(build):
    mutual = build("SOLVER.MAX_ITER", 1, "MUTUALNET.METHOD", "independent")
    mutual.resume_or_load()
    mutual.train()
    saved = torch.load(f"{mutual.cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)
    assert set(saved["calibrations"]["points"]) == {str(p) for p in grid_points(mutual.cfg)}
    assert mutual.model.training


def test_a_run_killed_while_it_calibrated_is_finished_on_resume(build, monkeypatch):
    mutual = build("SOLVER.MAX_ITER", 1)
    mutual.resume_or_load()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mutual, "finish", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        mutual.train()
    trained = torch.load(f"{mutual.cfg.OUTPUT_DIR}/model_0000000.pth", weights_only=True)
    assert "calibrations" not in trained

    resumed = build("SOLVER.MAX_ITER", 1, "OUTPUT_DIR", mutual.cfg.OUTPUT_DIR)
    resumed.resume_or_load(resume=True)
    resumed.train()
    saved = torch.load(f"{mutual.cfg.OUTPUT_DIR}/model_final.pth", weights_only=True)
    assert saved["calibrations"]["points"]
    assert saved["trainer"]["iteration"] == 0
    for name, weight in trained["model"].items():
        assert torch.equal(saved["model"][name], weight), name


def test_evaluates_the_test_point_while_it_trains(build):
    mutual = build(
        *("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, "MUTUALNET.TEST_POINT", "0.25x48"),
    )
    mutual.resume_or_load()
    mutual.train()
    for done in (1, 2):
        grid = Grid.load(f"{mutual.cfg.OUTPUT_DIR}/eval/{done:07d}/grid.json")
        assert [str(row.point) for row in grid.rows] == ["0.25x48"]
    assert mutual.storage.history("box/AP-0.25x48").latest() == grid.rows[0].score("box")
    assert mutual.model.training


def test_frozen_statistics(build, run_steps):
    mutual = build(
        *("MUTUALNET.STATISTICS", "frozen", "MUTUALNET.GRID.WIDTHS", (0.25, 0.5, 1.0)),
        *("MUTUALNET.CALIBRATION.REFRESH_PERIOD", 2, "SOLVER.MAX_ITER", 4),
        *("SOLVER.CHECKPOINT_PERIOD", 1),
    )
    mutual.resume_or_load()
    mutual.train()
    statistics, running = [], []
    for name in ("model_0000000", "model_0000001", "model_0000002", "model_final"):
        saved = torch.load(f"{mutual.cfg.OUTPUT_DIR}/{name}.pth", weights_only=True)
        points = saved["trainer"]["frozen_statistics"]["points"]
        # Every point that training can draw: each width of the list at each resolution.
        assert set(points) == {f"{w}x{r}" for w in ("0.25", "0.50", "1.00") for r in (64, 48, 32)}
        statistics.append(points["0.25x48"]["backbone.bottom_up.features.0.1"][0])
        running.append(saved["model"]["backbone.bottom_up.features.17.conv.3.running_mean"])
        full = points["1.00x64"]["backbone.bottom_up.features.17.conv.3"][0]
        torch.testing.assert_close(running[-1], full)
    assert torch.equal(statistics[2], statistics[1])  # kept after 3 iterations,
    assert not torch.equal(statistics[1], statistics[0])  # new after 2,
    assert torch.equal(statistics[3], statistics[2])  # and not once more at the end
    assert not torch.equal(running[1], running[0])


def test_frozen_statistics_are_what_normalises(build, run_steps, monkeypatch):
    mutual = build("MUTUALNET.STATISTICS", "frozen")
    used = []
    original = SlimmableBatchNorm2d._batch_norm

    def watch(self, x, mean, variance, batch):
        used.append((mean is not None, batch))
        return original(self, x, mean, variance, batch)

    mutual.prepare(0)
    monkeypatch.setattr(SlimmableBatchNorm2d, "_batch_norm", watch)
    mutual.prepare = lambda _: None
    run_steps(mutual, 0, 1)
    assert set(used) == {(True, False)}


def test_frozen_statistics_of_a_network_alone_are_of_its_width(build):
    options = ("MUTUALNET.METHOD", "independent", "MUTUALNET.GRID.WIDTHS", ())
    mutual = build("MUTUALNET.STATISTICS", "frozen", *options)
    mutual.refresh_statistics()
    assert {str(point) for point in mutual.calibrations} == {"1.00x64", "1.00x48", "1.00x32"}


def test_group_normalisation_needs_no_calibration(build, monkeypatch):
    mutual = build("MUTUALNET.NORM", "GN", "SOLVER.MAX_ITER", 2)
    monkeypatch.setattr(calibration, "calibration_images", lambda _: pytest.fail("calibrates"))
    mutual.resume_or_load()
    mutual.train()
    path = f"{mutual.cfg.OUTPUT_DIR}/model_final.pth"
    points = torch.load(path, weights_only=True)["calibrations"]["points"]
    assert points == {str(point): {} for point in grid_points(mutual.cfg)}

    model, calibrations = load_detector(mutual.cfg, path)
    points = [OperatingPoint(0.25, 64), OperatingPoint(0.6, 40)]  # this one is not of the grid
    grid = evaluate_grid(mutual.cfg, model, calibrations, points, f"{mutual.cfg.OUTPUT_DIR}/grid")
    assert [row.point for row in grid.rows] == points


# What stops it -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")  # replaced below
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite(build, value, monkeypatch):
    mutual = build("SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_ITER", 4, "MUTUALNET.NUM_RANDOM", 2)
    mutual.resume_or_load()
    study = mutual.model.study
    calls = []

    def fail(*args):
        losses = study(*args)
        calls.append(None)
        if len(calls) == 8:  # iteration 2: three students in each of the two before it, then two
            losses["loss_distill_box"] = losses["loss_distill_box"] * value
        return losses

    monkeypatch.setattr(mutual.model, "study", fail)
    before = []
    step = mutual.optimizer.step
    monkeypatch.setattr(mutual.optimizer, "step", lambda: (step(), before.append(weights(mutual))))
    point = build_sampler(mutual.cfg, mutual.seed)(2)[2].point
    with pytest.raises(FloatingPointError) as error:
        mutual.train()
    last = f"{mutual.cfg.OUTPUT_DIR}/model_0000001.pth"
    for text in (f"loss_distill_box is {value}", f"point {point} (random)", "iteration 2", last):
        assert text in str(error.value)
    assert len(before) == 2 and same(weights(mutual), before[-1])
    # What was good is still there, and goes on.
    resumed = build()
    resumed.resume_or_load(True)
    assert resumed.start_iter == 2
    assert same(weights(resumed), before[-1])


def test_rpn_that_notices_first(build, run_steps):
    """Detectron2's own error says neither where nor when."""
    mutual = build()
    mutual.model.proposal_generator.rpn_head.objectness_logits.bias.data[0] = math.nan
    with pytest.raises(FloatingPointError) as error:
        run_steps(mutual, 3)
    assert "diverged" in str(error.value)
    assert "at operating point 1.00x64 (full) in iteration 3" in str(error.value)


@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")  # replaced below
def test_weights_that_are_not_finite_are_never_saved(build):
    mutual = build("SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1)
    mutual.resume_or_load()
    step = mutual.optimizer.step

    def break_one():
        step()
        if mutual.iter == 1:
            mutual.model.backbone.fpn_output3.weight.data[0, 0, 0, 0] = math.inf

    mutual.optimizer.step = break_one
    with pytest.raises(FloatingPointError, match="backbone.fpn_output3.weight.*model_0000000.pth"):
        mutual.train()
    names = sorted(path.name for path in Path(mutual.cfg.OUTPUT_DIR).glob("*.pth*"))
    assert names == ["model_0000000.pth"]
    assert (Path(mutual.cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000000.pth"


def test_a_network_that_teaches_nothing_is_an_error(build):
    with pytest.raises(ConfigError, match="META_ARCHITECTURE is 'GeneralizedRCNN', which teaches"):
        build("MODEL.META_ARCHITECTURE", "GeneralizedRCNN")


def test_frozen_stages_need_weights(build):
    with pytest.raises(ConfigError, match="FREEZE_AT is 2 and MODEL.WEIGHTS is empty"):
        build("MODEL.BACKBONE.FREEZE_AT", 2).resume_or_load()


def test_frozen_stages_stay(build, run_steps, tmp_path):
    torch.manual_seed(3)
    backbone = build().model.backbone.bottom_up.state_dict()
    torch.save(backbone, tmp_path / "backbone.pth")
    mutual = build(
        *("MODEL.BACKBONE.FREEZE_AT", 2, "MODEL.WEIGHTS", str(tmp_path / "backbone.pth")),
        *("MUTUALNET.ALLOW_UNTRAINED_WIDTHS", True),
    )
    mutual.resume_or_load()
    run_steps(mutual, 0)
    state = mutual.model.backbone.bottom_up.state_dict()
    for name, parameter in mutual.model.backbone.bottom_up.named_parameters():
        frozen = int(name.split(".")[1]) <= 3
        assert (parameter.grad is None) == frozen, name
        assert not frozen or torch.equal(state[name], backbone[name]), name
    # Statistics are never frozen.
    changed = [n for n in state if "running_mean" in n and not state[n].equal(backbone[n])]
    assert len(changed) == sum("running_mean" in name for name in state)


def test_fresh_run_does_not_overwrite_another(build):
    mutual = build("MUTUALNET.METHOD", "independent", "SOLVER.MAX_ITER", 1)
    mutual.resume_or_load()
    mutual.train()
    with pytest.raises(ConfigError) as error:
        build().resume_or_load()
    for text in (mutual.cfg.OUTPUT_DIR, "model_final.pth", "--resume", "OUTPUT_DIR"):
        assert text in str(error.value)


def test_resume_without_a_checkpoint_starts_afresh(build):
    mutual = build()
    mutual.resume_or_load(True)
    assert mutual.start_iter == 0


@pytest.fixture
def broken_image(training_cfg, tmp_path):
    """The tiny data set with an image damaged inside, which no header tells; that image's path."""
    name, json_file, image_root = training_cfg.DATASETS.COCO_FORMAT[0]
    folder = tmp_path / "images"
    folder.mkdir()
    for path in Path(image_root).glob("*.jpg"):
        (folder / path.name).write_bytes(path.read_bytes())
    content = io.BytesIO()
    Image.open(folder / "000005.jpg").save(content, "PNG")
    whole = content.getvalue()
    broken = folder / "000005.png"
    broken.write_bytes(whole[:1500] + bytes(40) + whole[1540:])
    with pytest.raises(OSError), Image.open(broken) as image:
        image.load()
    text = Path(json_file).read_text()
    json_file = str(tmp_path / "broken.json")
    Path(json_file).write_text(text.replace("000005.jpg", broken.name))
    # Another name than the whole set's: Detectron2 keeps what a name stands for.
    new = f"broken_{tmp_path.name}"
    training_cfg.DATASETS.COCO_FORMAT = [[new, json_file, str(folder)]]
    training_cfg.DATASETS.TRAIN = training_cfg.DATASETS.TEST = (new,)
    return broken


def test_image_that_does_not_decode_stops_the_run(build, broken_image):
    mutual = build("MUTUALNET.METHOD", "independent", "SOLVER.MAX_ITER", 6)
    mutual.resume_or_load()
    with pytest.raises(DatasetError, match=str(broken_image)):
        mutual.train()


def test_image_that_does_not_decode_is_skipped_and_counted(
    build, broken_image, every_iteration, caplog
):
    options = (
        *("MUTUALNET.BAD_RECORDS", "skip", "MUTUALNET.METHOD", "independent"),
        *("SOLVER.CHECKPOINT_PERIOD", 6),
    )
    mutual = build(*options, "SOLVER.MAX_ITER", 7)  # an epoch has 6
    mutual.resume_or_load()
    mutual.train()
    assert f"Skipped {broken_image} (1 so far)" in caplog.text
    assert records(mutual.cfg.OUTPUT_DIR)[5]["skipped_images"] == 1
    # The count goes on where it was.
    resumed = build(*options, "SOLVER.MAX_ITER", 12)
    resumed.resume_or_load(True)
    resumed.train()
    assert records(resumed.cfg.OUTPUT_DIR)[-1]["skipped_images"] == 2


def test_operating_points_are_the_samplers(build, run_steps, monkeypatch):
    mutual = build("MUTUALNET.NUM_RANDOM", 2)
    seen = []
    monkeypatch.setattr(
        trainer,
        "at_width",
        lambda model, width, track: (seen.append((width, track)), at_width(model, width))[1],
    )
    run_steps(mutual, 0)
    points = [p.point for p in build_sampler(mutual.cfg, mutual.seed)(0)]
    assert points[0] == OperatingPoint(1.0, 64)
    assert seen == [(point.width, number == 0) for number, point in enumerate(points)]

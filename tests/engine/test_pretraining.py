"""Training a classifier: the same trainer, resumed exactly, and weights that others can load."""

import itertools
import json
from collections import Counter

import pytest
import torch
import torchvision
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage

from mutualnet_det.checkpoint import find_weights, load_detector
from mutualnet_det.config import check_output_dir, load_config
from mutualnet_det.data.check import check_datasets
from mutualnet_det.data.shapes.classes import VARIANT, generate_classes
from mutualnet_det.engine import MutualTrainer
from mutualnet_det.engine import trainer as trainer_module
from mutualnet_det.slimmable import OperatingPoint

NAME = "tiny_classes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = generate_classes(VARIANT, str(tmp_path_factory.mktemp("data") / "train"), 80, 0)
    yield folder
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture
def make_cfg(folder, tmp_path):
    """Makes the small pretraining's config, smaller still: 64 px, 4 iterations."""

    def make(output, *opts):
        cfg = load_config(
            "configs/pretrain_shapes.yaml",
            [
                *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / output)),
                *("DATASETS.IMAGE_FOLDERS", str([[NAME, folder]])),
                *("DATASETS.TRAIN", f"('{NAME}',)", "DATASETS.TEST", f"('{NAME}',)"),
                *("MUTUALNET.RESOLUTIONS", "(64, 48, 32)", "MUTUALNET.NUM_RANDOM", "1"),
                *("MUTUALNET.GRID.WIDTHS", "(0.25, 1.0)", "MUTUALNET.GRID.RESOLUTIONS", "(64, 32)"),
                *("MUTUALNET.CALIBRATION.NUM_IMAGES", "8", "SOLVER.IMS_PER_BATCH", "4"),
                *("SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2"),
                *("SOLVER.WARMUP_ITERS", "0", *opts),
            ],
        )
        check_datasets(cfg)
        check_output_dir(cfg.OUTPUT_DIR)
        return cfg

    return make


def train(cfg, resume=False):
    torch.manual_seed(0)
    trainer = MutualTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def weights_of(cfg):
    return torch.load(find_weights(cfg, resume=True), weights_only=True)["model"]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_resumed_run_ends_as_an_undisturbed_one(make_cfg, workers):
    options = ("DATALOADER.NUM_WORKERS", workers, "MUTUALNET.CLASSIFICATION.EMA_DECAY", "0.5")
    options += ("MUTUALNET.CLASSIFICATION.COLOR_JITTER", "0.4")
    whole = make_cfg("whole", *options)
    train(whole)
    cfg = make_cfg("killed", *options)
    torch.manual_seed(0)
    killed = MutualTrainer(cfg)
    killed.resume_or_load(False)
    run_step = killed.run_step

    def stop_at_three():
        if killed.iter == 3:
            raise KeyboardInterrupt
        run_step()

    killed.run_step = stop_at_three
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    train(cfg, resume=True)
    weights = weights_of(cfg)
    for name, value in weights_of(whole).items():
        assert torch.equal(weights[name], value), name


def test_all_points_of_the_grid_are_calibrated_and_load_back(make_cfg):
    cfg = make_cfg("a")
    trained = train(cfg).model.eval()
    model, calibrations = load_detector(cfg, find_weights(cfg))
    assert sorted(calibrations) == [
        *(OperatingPoint(0.25, 32), OperatingPoint(0.25, 64)),
        *(OperatingPoint(1.0, 32), OperatingPoint(1.0, 64)),
    ]
    images = [{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)}]
    with torch.no_grad():
        torch.testing.assert_close(model.logits(images), trained.logits(images))
        with calibrations.at(OperatingPoint(0.25, 32)):
            assert model.logits(images).isfinite().all()


def test_the_full_network_alone_is_torchvisions(make_cfg):
    cfg = make_cfg("a")
    model = train(cfg).model.eval()
    plain = torchvision.models.mobilenet_v2(num_classes=9).eval()
    plain.load_state_dict(weights_of(cfg), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = model.backbone(images)["logits"]
        torch.testing.assert_close(plain(images), logits, rtol=0, atol=1e-5)


def test_a_moving_average_is_what_a_training_ends_with(make_cfg):
    cfg = make_cfg(
        "a", "MUTUALNET.CLASSIFICATION.EMA_DECAY", "0.5", "SOLVER.CHECKPOINT_PERIOD", "1"
    )
    trainer = train(cfg)
    key = "features.3.conv.0.0.weight"
    expected = None
    torch.manual_seed(0)
    start = MutualTrainer(make_cfg("b")).network.state_dict()[key]
    for iteration in range(4):
        path = f"{cfg.OUTPUT_DIR}/model_{iteration:07d}.pth"
        value = torch.load(path, weights_only=True)["model"][key]
        expected = 0.5 * (start if expected is None else expected) + 0.5 * value
    torch.testing.assert_close(weights_of(cfg)[key], expected)
    assert not torch.equal(trainer.network.state_dict()[key], expected)  # training could go on


def test_a_moving_average_starts_from_the_given_weights(make_cfg, tmp_path):
    first = train(make_cfg("a"))
    options = ("MUTUALNET.CLASSIFICATION.EMA_DECAY", "0.9999", "SOLVER.MAX_ITER", "1")
    cfg = make_cfg("b", *options, "MODEL.WEIGHTS", f"{tmp_path}/a/model_final.pth")
    train(cfg)
    expected = dict(first.network.named_parameters())
    weights = weights_of(cfg)
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-4)


def test_a_longer_training_goes_on_from_the_weights_not_their_average(make_cfg):
    options = ("MUTUALNET.CLASSIFICATION.EMA_DECAY", "0.5", "SOLVER.LR_SCHEDULER_NAME")
    options += ("WarmupMultiStepLR", "SOLVER.STEPS", "()")
    whole = make_cfg("whole", *options, "SOLVER.MAX_ITER", "6")
    train(whole)
    train(make_cfg("longer", *options))
    longer = make_cfg("longer", *options, "SOLVER.MAX_ITER", "6")
    train(longer, resume=True)
    weights = weights_of(longer)
    for name, value in weights_of(whole).items():
        assert torch.equal(weights[name], value), name


def test_gradients_of_micro_batches_are_those_of_the_whole_batch(make_cfg):
    gradients = []
    torch.set_default_dtype(torch.float64)
    try:
        for count in ("1", "2", "4"):
            cfg = make_cfg(count, "MUTUALNET.NORM", "GN", "MUTUALNET.MICRO_BATCHES", count)
            torch.manual_seed(0)
            trainer = MutualTrainer(cfg)
            trainer.prepare(0)
            trainer.iter = 0
            with EventStorage(0) as trainer.storage:
                trainer.run_step()
            gradients.append({name: p.grad for name, p in trainer.model.named_parameters()})
    finally:
        torch.set_default_dtype(torch.float32)
    whole, *parts = gradients
    for part in parts:
        for name, gradient in part.items():
            torch.testing.assert_close(gradient, whole[name], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("method", ["mutual", "us_net", "us_net_multi_scale", "independent"])
def test_methods_train_the_points_they_should(make_cfg, method, monkeypatch):
    cfg = make_cfg(method, "MUTUALNET.METHOD", method, "SOLVER.MAX_ITER", "3")
    seen = []
    trainer = MutualTrainer(cfg)
    logits = trainer.model.logits

    def watched(batch):
        seen.append((trainer.network.width.value, batch[0]["image"].shape[-1]))
        return logits(batch)

    monkeypatch.setattr(trainer.model, "logits", watched)
    trainer.finish = lambda: None
    trainer.train()
    iterations = [seen[i : i + 3] for i in range(0, len(seen), 3)]
    if method == "independent":
        assert seen == [(1.0, 64)] * 3
        return
    assert len(seen) == 9 and all(p[0][0] == 1.0 and p[1][0] == 0.25 for p in iterations)
    distinct = Counter(len({resolution for _, resolution in p}) for p in iterations)
    if method == "mutual":
        assert all(p[0][1] == 64 for p in iterations) and max(distinct) > 1
    else:
        assert set(distinct) == {1}
        assert method == "us_net_multi_scale" or {r for _, r in seen} == {64}


def test_learns(make_cfg, monkeypatch):
    """One batch by heart, by the full network and, from it, the narrowest one."""
    cfg = make_cfg("a", "SOLVER.MAX_ITER", "60", "SOLVER.CHECKPOINT_PERIOD", "1000")
    batch = next(trainer_module.build_training_loader(cfg, 0, 0))
    monkeypatch.setattr(
        trainer_module, "build_training_loader", lambda *args: itertools.repeat(batch)
    )
    train(cfg)
    with open(f"{cfg.OUTPUT_DIR}/metrics.json") as file:
        records = [json.loads(line) for line in file]
    assert records[-1]["full/loss_class"] < 0.5 * records[0]["full/loss_class"]
    assert records[-1]["narrowest/loss_distill_class"] < 1.0

"""Checkpoints of detectors and backbones: whole, loaded strictly, readable by Detectron2."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from mutualnet_det.checkpoint import (
    CheckpointError,
    MutualCheckpointer,
    NotWrittenError,
    find_weights,
    import_backbone,
    load_detector,
)
from mutualnet_det.config import grid_points
from mutualnet_det.data.coco import check_datasets
from mutualnet_det.engine import MutualTrainer
from mutualnet_det.modeling.classifier import network_of
from mutualnet_det.slimmable import at_width


class Counter:
    """Something to save beside a model."""

    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def build(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def folder(tiny_cfg):
    return Path(tiny_cfg.OUTPUT_DIR)


@pytest.fixture
def saved(tiny_cfg, folder):
    """The path of a checkpoint and the model in it."""
    model = build(tiny_cfg)
    MutualCheckpointer(model, tiny_cfg, str(folder), counter=Counter(5)).save("one", note="kept")
    return folder / "one.pth", model


def edit(path, change):
    """Change the model's state dict in a checkpoint."""
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint["model"])
    torch.save(checkpoint, path)


# Writing -----------------------------------------------------------------------------------------


def test_round_trip(tiny_cfg, saved):
    path, model = saved
    other, counter = build(tiny_cfg, seed=1), Counter(0)
    assert not same(snapshot(other), snapshot(model))
    extra = MutualCheckpointer(other, tiny_cfg, counter=counter).load(str(path))
    assert same(snapshot(other), snapshot(model))
    assert counter.value == 5 and extra["note"] == "kept"


def test_last_is_marked(tiny_cfg, folder):
    checkpointer = MutualCheckpointer(build(tiny_cfg), tiny_cfg, str(folder))
    assert not checkpointer.has_checkpoint()
    checkpointer.save("one")
    checkpointer.save("two")
    assert checkpointer.get_checkpoint_file() == str(folder / "two.pth")
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints.sha256",
        "last_checkpoint",
        "one.pth",
        "two.pth",
    ]


def test_a_write_that_fails_leaves_the_last_one(tiny_cfg, saved, monkeypatch):
    path, model = saved
    content = path.read_bytes()

    def fail(_, file):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    checkpointer = MutualCheckpointer(model, tiny_cfg, str(path.parent))
    for name in ("one", "two"):
        with pytest.raises(NotWrittenError, match=f"No space.*last good checkpoint is {path}"):
            checkpointer.save(name)
    assert path.read_bytes() == content
    assert checkpointer.get_checkpoint_file() == str(path)
    assert not (path.parent / "two.pth").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["backbone.fpn_lateral3.weight", "backbone.bottom_up.features.2.conv.3.running_var"]
)
def test_values_that_are_not_finite_are_not_written(tiny_cfg, saved, name, value):
    path, model = saved
    model.state_dict()[name].view(-1)[0] = value
    checkpointer = MutualCheckpointer(model, tiny_cfg, str(path.parent))
    with pytest.raises(FloatingPointError, match=f"{name} is not finite.*{path}"):
        checkpointer.save("two")
    assert not list(path.parent.glob("two*"))
    assert checkpointer.get_checkpoint_file() == str(path)


def test_other_processes_write_nothing(tiny_cfg, folder, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    MutualCheckpointer(build(tiny_cfg), tiny_cfg, str(folder)).save("one")
    assert list(folder.iterdir()) == []


# Loading strictly --------------------------------------------------------------------------------


def refuse(tiny_cfg, path, *texts, seed=1):
    """Loading must fail with all of ``texts`` in the message, and leave the model as it was."""
    model = build(tiny_cfg, seed)
    before = snapshot(model)
    with pytest.raises(CheckpointError) as error:
        MutualCheckpointer(model, tiny_cfg).load(str(path))
    for text in (str(path), *texts):
        assert text in str(error.value)
    assert same(snapshot(model), before)


def test_missing_entry(tiny_cfg, saved):
    path, _ = saved
    edit(path, lambda state: state.pop("roi_heads.mask_head.predictor.weight"))
    refuse(tiny_cfg, path, "roi_heads.mask_head.predictor.weight is missing")


def test_unknown_entry(tiny_cfg, saved):
    path, _ = saved
    edit(path, lambda state: state.update({"roi_heads.extra.weight": torch.zeros(1)}))
    refuse(tiny_cfg, path, "roi_heads.extra.weight is unknown")


def test_other_shape(tiny_cfg, saved):
    path, _ = saved
    tiny_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 7
    name = "roi_heads.box_predictor.cls_score.weight"
    refuse(tiny_cfg, path, f"{name} has shape (4, 32), the model (8, 32)")


@pytest.mark.parametrize(
    "key, value",
    [
        ("INPUT.FORMAT", "BGR"),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]),
        ("MUTUALNET.SCOPE", "backbone"),
        ("MUTUALNET.WIDTH_RANGE", (0.125, 1.0)),
    ],
)
def test_other_preprocessing_or_widths(tiny_cfg, saved, key, value):
    path, _ = saved
    tiny_cfg.merge_from_list([key, value])
    refuse(tiny_cfg, path, key)


def test_missing_file(tiny_cfg, folder):
    refuse(tiny_cfg, folder / "nowhere.pth", "no checkpoint")


def test_truncated_file(tiny_cfg, saved):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:-1000])
    refuse(tiny_cfg, path, "truncated")


def test_what_stands_beside_the_model_must_be_there(tiny_cfg, saved):
    path, model = saved
    other = build(tiny_cfg, seed=1)
    checkpointer = MutualCheckpointer(other, tiny_cfg, counter=Counter(0), missing=Counter(0))
    with pytest.raises(CheckpointError, match=f"{path} holds no 'missing'"):
        checkpointer.load(str(path))
    checkpointer.load(str(path), checkpointables=["counter"])
    assert same(snapshot(other), snapshot(model))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrappers(tiny_cfg, saved, prefix):
    path, model = saved
    state = {f"{prefix}{name}": value for name, value in model.state_dict().items()}
    torch.save(state, path)
    other = build(tiny_cfg, seed=1)
    MutualCheckpointer(other, tiny_cfg).load(str(path))
    assert same(snapshot(other), snapshot(model))


# Backbones ---------------------------------------------------------------------------------------


@pytest.fixture
def mobilenet():
    """torchvision's network, tail and classifier included."""
    torch.manual_seed(2)
    network = torchvision.models.mobilenet_v2(weights=None)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean)
    return network


@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchvisions_backbone(tiny_cfg, folder, mobilenet, prefix):
    path = folder / "mobilenet_v2.pth"
    torch.save({f"{prefix}{name}": value for name, value in mobilenet.state_dict().items()}, path)
    tiny_cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = True
    model = build(tiny_cfg)
    before = snapshot(model)
    MutualCheckpointer(model, tiny_cfg).load(str(path))
    source = mobilenet.state_dict()
    for name, value in model.state_dict().items():
        if name.startswith("backbone.bottom_up."):
            assert torch.equal(value, source[name.removeprefix("backbone.bottom_up.")])
        else:
            assert torch.equal(value, before[name])
    # Not only the names are torchvision's: so is what it computes.
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = model.eval().backbone.bottom_up(image)
        for name, stop in (("res2", 4), ("res3", 7), ("res4", 14), ("res5", 18)):
            expected = mobilenet.eval().features[:stop](image)
            torch.testing.assert_close(features[name], expected, rtol=1e-4, atol=1e-5)


def test_state_dict_of_others_is_of_one_width(tiny_cfg, folder, mobilenet, caplog):
    path = folder / "mobilenet_v2.pth"
    torch.save(mobilenet.state_dict(), path)
    texts = ["does not say which widths", "at width 1.0 alone", "(0.25, 1.0)"]
    refuse(tiny_cfg, path, *texts, "MUTUALNET.ALLOW_UNTRAINED_WIDTHS True")
    tiny_cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = True
    MutualCheckpointer(build(tiny_cfg), tiny_cfg).load(str(path))
    assert "Widths below 1.0 start untrained" in caplog.text
    caplog.clear()
    tiny_cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = False
    tiny_cfg.MUTUALNET.WIDTH_RANGE = (1.0, 1.0)
    MutualCheckpointer(build(tiny_cfg), tiny_cfg).load(str(path))
    assert "untrained" not in caplog.text


def backbone_cfg(cfg, builder, **keys):
    """``cfg`` with another backbone."""
    cfg.MODEL.FPN.BOTTOM_UP = f"build_slimmable_{builder}_backbone"
    cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = True
    cfg.merge_from_list([item for pair in keys.items() for item in pair])
    return cfg


@pytest.mark.parametrize(
    "builder, name", [("mobilenet_v2", "mobilenet_v2"), ("resnet", "resnet50"), ("vgg16_bn", "")]
)
def test_imported_backbone(tiny_cfg, folder, builder, name):
    network = torchvision.models.get_model(name or "vgg16_bn", num_classes=3)
    state = network.state_dict()
    if builder == "vgg16_bn":  # its classifier is 9/10 of it
        state = {key: value for key, value in state.items() if key.startswith("features")}
    torch.save(state, folder / "source.pth")
    import_backbone(str(folder / "source.pth"), str(folder / "imported.pth"))
    cfg = backbone_cfg(tiny_cfg, builder)
    for path in ("source.pth", "imported.pth"):
        model = build(cfg)
        MutualCheckpointer(model, cfg).load(str(folder / path))
        for key, value in model.backbone.bottom_up.state_dict().items():
            assert torch.equal(value, state[key])
    cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = False
    texts = ["imported.pth was trained at width 1.0 alone", "(0.25, 1.0)", "ALLOW_UNTRAINED_WIDTHS"]
    refuse(cfg, folder / "imported.pth", *texts)


@pytest.mark.parametrize("part", ["detector", "backbone"])
@pytest.mark.parametrize("builder", ["mobilenet_v2", "resnet"])
def test_a_narrower_network_starts_as_a_sub_network(tiny_cfg, folder, builder, part):
    """In the features and the box head's logits, on one batch's statistics."""
    cfg = backbone_cfg(tiny_cfg, builder)
    wide = build(cfg)
    whole = MutualCheckpointer(wide, cfg, str(folder), counter=Counter(5))
    whole.save("wide")
    path = folder / "wide.pth"
    if part == "backbone":
        checkpoint = torch.load(path, weights_only=True)
        inner = wide.backbone.bottom_up.state_dict()
        torch.save({**checkpoint, "model": inner}, path)
    cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = False
    cfg.MUTUALNET.WIDTH_RANGE = (0.25, 0.5)
    narrow = build(cfg, seed=1)
    before = torch.get_rng_state()
    loader = MutualCheckpointer(narrow, cfg, counter=Counter(0))
    loader.load(str(path), checkpointables=[])
    assert torch.equal(torch.get_rng_state(), before)

    images = torch.randn(2, 3, 64, 64)
    features = []
    for model in (wide, narrow):
        with torch.no_grad(), at_width(model, 0.5):
            levels = (model.backbone if part == "detector" else model.backbone.bottom_up)(images)
            features += [[*levels.values()]]
            if part == "detector":
                pooled = torch.ones(2, levels["p2"].shape[1], 7, 7)
                features[-1] += [*model.roi_heads.box_predictor(model.roi_heads.box_head(pooled))]
    assert all(map(torch.equal, *features))

    # An evaluation, or a training that goes on, is of the network that was trained.
    refuse(cfg, path, "widths 0.25 to 1.0", "(0.25, 0.5)", "must be the same")
    cfg.MUTUALNET.WIDTH_RANGE = (0.25, 1.25)
    with pytest.raises(CheckpointError, match="must not be above"):
        MutualCheckpointer(build(cfg), cfg).load(str(path), checkpointables=[])
    # One that is too large for another reason is no wider one.
    cfg.MUTUALNET.WIDTH_RANGE = (0.25, 0.5)
    cfg.MODEL.FPN.OUT_CHANNELS = 24
    if part == "detector":
        with pytest.raises(CheckpointError, match="of another architecture"):
            MutualCheckpointer(build(cfg), cfg).load(str(path), checkpointables=[])


def test_public_backbone_with_calibrations(tiny_cfg, folder, public_mobilenet_v1):
    path = folder / "imported.pth"
    images = torch.randn(2, 3, 64, 64)
    public_mobilenet_v1.save(folder / "source.pt", [0.25, 1.0], [images])
    import_backbone(str(folder / "source.pt"), str(path))
    cfg = backbone_cfg(tiny_cfg, "mobilenet_v1")
    cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = False
    model = build(cfg)
    MutualCheckpointer(model, cfg).load(str(path))
    expected = torch.load(path, weights_only=True)["model"]["features.5.1.1.running_var"]
    assert torch.equal(model.backbone.bottom_up.features[5][1][1].running_var, expected)
    cfg.MUTUALNET.WIDTH_RANGE = (0.2, 1.0)
    refuse(cfg, path, "trained at widths 0.25 to 1.0", "(0.2, 1.0)", "ALLOW_UNTRAINED_WIDTHS")
    cfg.MUTUALNET.WIDTH_RANGE = (0.25, 1.0)
    cfg.INPUT.FORMAT = "BGR"
    refuse(cfg, path, "INPUT.FORMAT RGB, the config has BGR")


def test_other_norm(tiny_cfg, saved, folder, mobilenet):
    path, _ = saved
    torch.save(mobilenet.state_dict(), folder / "a.pth")
    tiny_cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS = True
    tiny_cfg.MUTUALNET.NORM = "GN"
    for with_statistics in (path, folder / "a.pth"):
        refuse(tiny_cfg, with_statistics, "of a network with MUTUALNET.NORM BN, the config has GN")
    MutualCheckpointer(build(tiny_cfg), tiny_cfg, str(folder)).save("grouped")
    tiny_cfg.MUTUALNET.NORM = "BN"
    refuse(tiny_cfg, folder / "grouped.pth", "with MUTUALNET.NORM GN, the config has BN")
    # What lacks some statistics is no network without any.
    edit(path, lambda state: state.pop("backbone.bottom_up.features.0.1.running_mean"))
    refuse(tiny_cfg, path, "backbone.bottom_up.features.0.1.running_mean is missing")


def test_classifiers_backbone_with_group_normalisation(tiny_cfg, folder):
    tiny_cfg.MUTUALNET.NORM = "GN"
    cfg = tiny_cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "MutualClassifier"
    cfg.MODEL.BACKBONE.NAME = cfg.MODEL.FPN.BOTTOM_UP
    cfg.MODEL.BACKBONE.NUM_CLASSES = 5
    network = network_of(build(cfg))
    MutualCheckpointer(network, cfg, str(folder)).save("classifier")
    model = build(tiny_cfg, seed=1)
    MutualCheckpointer(model, tiny_cfg).load(str(folder / "classifier.pth"))
    taken = network.state_dict()
    for name, value in model.backbone.bottom_up.state_dict().items():
        assert torch.equal(value, taken[name]), name


def test_imported_classifier(tiny_cfg, folder, public_mobilenet_v1):
    """It evaluates as it is, calibrations included."""
    images = torch.randn(2, 3, 64, 64)
    public_mobilenet_v1.save(folder / "source.pt", [0.25, 1.0], [images])
    import_backbone(str(folder / "source.pt"), str(folder / "imported.pth"))
    tiny_cfg.MODEL.META_ARCHITECTURE = "MutualClassifier"
    tiny_cfg.MODEL.BACKBONE.NAME = "build_slimmable_mobilenet_v1_backbone"
    tiny_cfg.MODEL.BACKBONE.NUM_CLASSES = 10
    model, calibrations = load_detector(tiny_cfg, str(folder / "imported.pth"))
    assert sorted(map(str, calibrations)) == ["0.25x224", "1.00x224"]
    image = torch.rand(3, 64, 64) * 255
    with torch.no_grad(), calibrations.at(sorted(calibrations)[0]):
        scores = model([{"image": image}])[0]["scores"]
        inputs = (image - model.pixel_mean) / model.pixel_std
        expected = public_mobilenet_v1.at(0.25, [images])(inputs[None])[-1].softmax(1)[0]
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)


def test_deeper_resnet(tiny_cfg, folder):
    torch.save(torchvision.models.resnet101().state_dict(), folder / "source.pth")
    import_backbone(str(folder / "source.pth"), str(folder / "imported.pth"))
    cfg = backbone_cfg(tiny_cfg, "resnet", **{"MODEL.RESNETS.DEPTH": 50})
    refuse(cfg, folder / "source.pth", "another architecture", "layer3.6.conv1.weight is unknown")
    refuse(cfg, folder / "imported.pth", "MODEL.RESNETS.DEPTH 101, the config has 50")


def test_backbone_in_other_names(tiny_cfg, folder, public_mobilenet_v1):
    public_mobilenet_v1.save(folder / "a.pt", [0.25, 1.0], [])
    refuse(
        backbone_cfg(tiny_cfg, "mobilenet_v1"),
        folder / "a.pt",
        "It is MobileNetV1 of the public MutualNet and US-Net code",
        "mutualnet import",
    )


def test_backbone_with_a_missing_layer(tiny_cfg, folder, mobilenet):
    state = dict(mobilenet.state_dict())
    state.pop("features.7.conv.0.0.weight")
    torch.save(state, folder / "part.pth")
    refuse(tiny_cfg, folder / "part.pth", "features.7.conv.0.0.weight is missing")


def test_backbone_of_another_width(tiny_cfg, folder):
    network = torchvision.models.mobilenet_v2(weights=None, width_mult=0.5)
    torch.save(network.state_dict(), folder / "half.pth")
    refuse(tiny_cfg, folder / "half.pth", "features.0.0.weight has shape (16, 3, 3, 3)")


def test_backbone_of_another_kind(tiny_cfg, folder):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), folder / "resnet.pth")
    refuse(tiny_cfg, folder / "resnet.pth", "conv1.weight is unknown")
    vgg = {"features.0.weight": torch.zeros(64, 3, 3, 3), "classifier.0.weight": torch.zeros(2, 2)}
    torch.save(vgg, folder / "vgg.pth")
    refuse(tiny_cfg, folder / "vgg.pth", "is missing")


# Whole detectors ---------------------------------------------------------------------------------


@pytest.fixture
def trained(training_cfg):
    """A config and its model_final.pth, after one iteration."""
    cfg = training_cfg
    cfg.MUTUALNET.METHOD = "independent"
    cfg.SOLVER.MAX_ITER = 1
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    check_datasets(cfg)
    trainer = MutualTrainer(cfg)
    trainer.resume_or_load()
    trainer.train()
    return cfg, f"{cfg.OUTPUT_DIR}/model_final.pth"


def test_load_detector(trained):
    cfg, path = trained
    model, calibrations = load_detector(cfg, path)
    assert not model.training
    assert same(snapshot(model), torch.load(path, weights_only=True)["model"])
    assert set(calibrations) == set(grid_points(cfg))
    with calibrations.at(grid_points(cfg)[0]):
        model.inference([{"image": torch.zeros(3, 32, 48)}])


def test_load_detector_refuses_a_backbone(tiny_cfg, folder, mobilenet):
    torch.save(mobilenet.state_dict(), folder / "mobilenet_v2.pth")
    with pytest.raises(CheckpointError, match="mobilenet_v2.pth holds a backbone alone"):
        load_detector(tiny_cfg, str(folder / "mobilenet_v2.pth"))


def test_weights_to_evaluate(trained):
    cfg, path = trained
    assert find_weights(cfg) == find_weights(cfg, resume=True) == path
    cfg.MODEL.WEIGHTS = "other.pth"
    assert find_weights(cfg) == "other.pth"
    assert find_weights(cfg, resume=True) == path
    cfg.OUTPUT_DIR = str(Path(path).parent / "empty")
    with pytest.raises(CheckpointError, match=f"no trained model in OUTPUT_DIR {cfg.OUTPUT_DIR}"):
        find_weights(cfg, resume=True)


def test_damaged_weights_are_not_evaluated(trained):
    cfg, path = trained
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[:-1])
    with pytest.raises(
        CheckpointError, match=f"{path}.*not as it was written.*0000000.pth is good"
    ):
        find_weights(cfg)


def test_checkpoint_copied_alone_loads(trained, tmp_path):
    cfg, path = trained
    (tmp_path / "copied").mkdir()
    copy = shutil.copy(path, tmp_path / "copied" / "mine.pth")
    ours, _ = load_detector(cfg, path)
    copied, _ = load_detector(cfg, copy)
    assert same(snapshot(ours), snapshot(copied))


def test_plain_detectron2_reads_it(trained, caplog):
    cfg, path = trained
    ours, _ = load_detector(cfg, path)
    model = build(cfg, seed=3)
    with caplog.at_level(logging.WARNING):
        DetectionCheckpointer(model).load(path)
    assert not caplog.records  # of missing, unknown or unfit entries
    assert same(snapshot(model), snapshot(ours))


def test_detectron2s_predictor_runs_the_full_network(trained):
    cfg, path = trained
    cfg.MODEL.WEIGHTS = path
    predictor = DefaultPredictor(cfg)
    image_file = sorted(Path(cfg.DATASETS.COCO_FORMAT[0][2]).glob("*.jpg"))[0]
    image = read_image(str(image_file), format="BGR")
    instances = predictor(image)["instances"]
    assert len(instances) > 0 and instances.pred_masks.shape == (len(instances), 96, 96)

    ours, _ = load_detector(cfg, path)
    resized = predictor.aug.get_transform(image).apply_image(image[:, :, ::-1])
    tensor = torch.as_tensor(resized.astype("float32").transpose(2, 0, 1))
    expected = ours.inference([{"image": tensor, "height": 96, "width": 96}])[0]["instances"]
    torch.testing.assert_close(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(instances.scores, expected.scores)

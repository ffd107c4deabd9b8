"""Imported backbones compute what their sources do; what cannot be imported is refused."""

import errno
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from safetensors.torch import save_file
from torch import nn

from mutualnet_det.checkpoint import CheckpointError, import_backbone, read_checkpoint
from mutualnet_det.slimmable import Calibrations, OperatingPoint, UncalibratedError, at_width

FIXTURES = Path(__file__).parents[2] / "../shared/fixtures"
RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}
BGR = {
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.pth"


def batches(seed=1, size=64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, size, size, generator=generator) for _ in range(2)]


def assert_same(actual, expected, tolerance=1e-5, scaled=False):
    """
    Equal tensors, one by one. ``scaled``: in units of their largest value. In a ResNet of random
    weights, float32 and float64 differ by 1e-3 once statistics are computed anew.
    """
    for one, other in zip(actual, expected, strict=True):
        unit = float(other.abs().max()) if scaled else 1.0
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * unit)
        assert other.std() > 1e-3  # not equal for being zero


# The public slimmable code -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def fixture(tmp_path_factory):
    """The imported fixture, and what the public code computes with it."""
    if not FIXTURES.is_dir():
        pytest.skip(f"no {FIXTURES}")
    path = tmp_path_factory.mktemp("fixture") / "mobilenet_v2.pth"
    report = import_backbone(str(FIXTURES / "mutualnet_mobilenet_v2_checkpoint.pt"), str(path))
    data = torch.load(FIXTURES / "mutualnet_mobilenet_v2_reference.pt", weights_only=True)
    return path, report, data


@pytest.mark.parametrize("resolution", [224, 160])
@pytest.mark.parametrize("width", ["0.25", "0.5", "0.7", "1.0"])
def test_reproduces_the_fixture(fixture, load_backbone, width, resolution):
    path, _, data = fixture
    model, _ = load_backbone(path)
    reference = data["reference"][f"{width}-{resolution}"]

    def resized(images):
        size = (resolution, resolution)
        return F.interpolate(images, size=size, mode="bilinear", align_corners=True)

    point = OperatingPoint(float(width), resolution)
    calibrations = Calibrations(model)
    calibrations.calibrate(point, map(resized, data["calibration"]))
    with torch.no_grad(), calibrations.at(point):
        *stages, logits = model(resized(data["input"])).values()
    assert [stage.shape for stage in stages] == list(reference["stage_shapes"].values())
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(logits, reference["logits"], **close)
    for stage, stride in zip(stages, reference["stage_shapes"], strict=True):
        expected = reference["stage_features"][stride]
        torch.testing.assert_close(stage[..., ::4, ::4], expected, **close)
        mean, size = stage.mean(dim=(0, 2, 3)), stage.abs().mean(dim=(0, 2, 3))
        torch.testing.assert_close(mean, reference["stage_mean"][stride], **close)
        torch.testing.assert_close(size, reference["stage_abs"][stride], **close)


def test_provenance_and_report_of_the_fixture(fixture):
    path, report, _ = fixture
    content = torch.load(path, weights_only=True)
    assert content["mutualnet"] == {
        "preprocessing": RGB,
        "architecture": {"MODEL.BACKBONE.NAME": "build_slimmable_mobilenet_v2_backbone"},
        "width_range": [0.25, 1.0],
        "resolutions": [224, 192, 160, 128],
        "classes": {},
    }
    # Only the full width's statistics were ever updated.
    assert list(content["calibrations"]["points"]) == ["1.00x224"] == list(map(str, report.points))
    source = torch.load(FIXTURES / "mutualnet_mobilenet_v2_checkpoint.pt", weights_only=True)
    mean = source["model"]["module.features.3.body.1.bn.3.running_mean"]
    assert torch.equal(content["model"]["features.3.conv.0.1.running_mean"], mean)
    text = str(report)
    for expected in (
        "MobileNetV2 of the public MutualNet and US-Net code",
        "0.25 to 1",
        "1.00x224",
        "statistics at width 1",
        "not used: statistics that were never updated",
        "features.0.1.bn.0.running_mean",
        "optimizer",
    ):
        assert expected in text
    every = {key.removeprefix("module.") for key in source["model"]}
    used = {key for keys in report.used.values() for key in keys}
    assert used | set(report.unused) == {*every, "optimizer", "last_epoch"}
    assert not used & set(report.unused)


@pytest.mark.parametrize("point", [(0.3, 64), (0.75, 96)])
def test_public_layout_after_calibration(public, load_backbone, out, tmp_path, point):
    width, resolution = point
    public.save(tmp_path / "a.tar", [0.25, 0.5, 1.0], [], updated=())
    import_backbone(str(tmp_path / "a.tar"), str(out))
    model, _ = load_backbone(out)
    calibrations = Calibrations(model)
    seen = batches(size=resolution)
    calibrations.calibrate(OperatingPoint(*point), seen)
    image = batches(seed=2, size=resolution)[0]
    with torch.no_grad(), calibrations.at(OperatingPoint(*point)):
        features = list(model(image).values())
        assert_same(features, public.at(width, seen)(image), 1e-4, scaled=True)


def test_statistics_of_listed_widths_come_along(public, load_backbone, out, tmp_path):
    listed = [0.9, 0.35, 0.5, 1.0]
    public.save(tmp_path / "a.pt", listed, batches(), updated=[0.9, 0.35, 1.0])
    report = import_backbone(str(tmp_path / "a.pt"), str(out), resolution=160)
    assert report.width_range == (0.35, 1.0)
    model, content = load_backbone(out)
    calibrations = Calibrations(model)
    calibrations.load_state_dict(content["calibrations"])
    assert sorted(calibrations) == report.points == [(0.35, 160), (0.9, 160), (1.0, 160)]
    image = batches(seed=2)[0]
    has_tail = hasattr(model, "features") and len(model.features) == 19
    assert ("features.18.1.weight are the same" in str(report)) == has_tail
    with torch.no_grad():
        for point in calibrations:
            with calibrations.at(point):
                features = list(model(image).values())
            expected = public.at(point.width, batches())
            if has_tail:  # whose statistics are those of the last width for all
                full = public.at(1.0, batches())
                expected.features[18][1].load_state_dict(full.features[18][1].state_dict())
            assert_same(features, expected(image), 1e-4, scaled=True)
        # The full width's are the running ones.
        assert_same(
            list(model(image).values()), public.at(1.0, batches())(image), 1e-4, scaled=True
        )
        with at_width(model, 0.5), pytest.raises(UncalibratedError):
            model(image)


def test_scaled_network(wide_mobilenet_v1, load_backbone, out, tmp_path):
    wide_mobilenet_v1.save(tmp_path / "a.pt", [0.25, 1.6], batches())
    report = import_backbone(str(tmp_path / "a.pt"), str(out), resolutions=[128, 224])
    assert report.width_range == (0.25, 1.6) and report.resolutions == (224, 128)
    model, _ = load_backbone(out)
    image = batches(seed=2)[0]
    with torch.no_grad():
        features = list(model(image).values())
        assert_same(features, wide_mobilenet_v1.at(1.6, batches())(image), 1e-4, scaled=True)


def test_widths_may_be_given(public_mobilenet_v1, out, tmp_path):
    path = str(tmp_path / "a.pt")
    public_mobilenet_v1.save(path, [0.251, 1.0], batches())
    assert import_backbone(path, str(out)).width_range == (0.25, 1.0)
    assert import_backbone(path, str(out), widths=[0.251, 1.0]).width_range == (0.251, 1.0)
    out.unlink()
    with pytest.raises(CheckpointError, match="gives 1 widths, and .*a.pt lists statistics for 2"):
        import_backbone(path, str(out), widths=[1.0])
    with pytest.raises(CheckpointError, match="0.5 in place 1, .* 8 channels in .*; .* has 16"):
        import_backbone(path, str(out), widths=[0.5, 1.0])
    assert not out.exists()


def test_network_without_statistics(public_mobilenet_v1, out, tmp_path):
    public_mobilenet_v1.save(tmp_path / "a.pt", [0.25, 0.5], batches())
    report = import_backbone(str(tmp_path / "a.pt"), str(out))
    assert report.width_range == (0.25, 1.0)
    assert "no statistics of the full network" in str(report)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda mean: mean[:-1], "statistics with channels of no width"),
        (lambda mean: mean.new_ones(64), "statistics with channels of no width"),
        (None, "statistics that some norms lack"),
    ],
)
def test_statistics_that_do_not_fit(public_mobilenet_v1, out, tmp_path, change, reason):
    path, key = tmp_path / "a.pt", "module.features.3.body.4.bn.0.running_mean"
    public_mobilenet_v1.save(path, [0.25, 0.5, 1.0], batches())
    content = torch.load(path, weights_only=True)
    mean = content["model"].pop(key)
    if change:
        content["model"][key] = change(mean)
    torch.save(content, path)
    report = import_backbone(str(path), str(out))
    assert report.points == [(0.5, 224), (1.0, 224)]
    assert report.unused["features.2.body.1.bn.0.running_var"] == reason


def test_statistics_that_are_not_finite(public_mobilenet_v1, out, tmp_path):
    public_mobilenet_v1.save(tmp_path / "a.pt", [0.25, 1.0], batches())
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    content["model"]["module.features.3.body.4.bn.0.running_mean"][0] = float("nan")
    torch.save(content, tmp_path / "a.pt")
    refuse(tmp_path / "a.pt", out, "features.3.body.4.bn.0 are not finite")


# Ordinary networks -------------------------------------------------------------------------------

TORCHVISION = {
    "mobilenet_v2": lambda model, x: tap(model.features, x, (3, 6, 13, 17)),
    "resnet50": lambda model, x: resnet_features(model, x),
    "resnet101": lambda model, x: resnet_features(model, x),
    "resnet152": lambda model, x: resnet_features(model, x),
    "vgg16_bn": lambda model, x: tap(model.features, x, (22, 32, 42, 43)),
}


def tap(layers, x, places):
    tapped = []
    for index, layer in enumerate(layers):
        x = layer(x)
        if index in places:
            # torchvision's ReLUs work in place: nothing may follow what is tapped.
            tapped.append(x.clone())
    return tapped


def resnet_features(model, x):
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return tap([model.layer1, model.layer2, model.layer3, model.layer4], x, (0, 1, 2, 3))


SLOW = ("resnet101", "resnet152", "vgg16_bn")


def marked(names):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]


@pytest.mark.parametrize("name", marked(TORCHVISION))
def test_torchvision(random_network, load_backbone, out, tmp_path, name):
    network = random_network(getattr(torchvision.models, name), num_classes=7)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    report = import_backbone(str(tmp_path / "a.pth"), str(out))
    model, content = load_backbone(out)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = list(model(image).values())
        assert_same(features, [*TORCHVISION[name](network, image), network(image)])
    assert content["mutualnet"]["width_range"] == [1.0, 1.0] and report.num_classes == 7
    assert content["mutualnet"]["preprocessing"] == RGB
    assert "narrower widths are untrained" in str(report) and "ALLOW_UNTRAINED" in str(report)
    assert "calibrations" not in content


@pytest.mark.parametrize("name", marked(["mobilenetv2_100", "resnet50", "resnet101", "vgg16_bn"]))
def test_timm(random_network, load_backbone, out, tmp_path, name):
    network = random_network(lambda: timm.create_model(name, num_classes=7))
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    import_backbone(str(tmp_path / "model.safetensors"), str(out))
    model, _ = load_backbone(out, features=("res5", "logits"))
    size = 224 if name == "vgg16_bn" else 64
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        outputs = model(image)
        assert_same([outputs["logits"]], [network(image)])


def test_prefix_and_what_stands_beside_it(random_network, out, tmp_path):
    network = random_network(torchvision.models.mobilenet_v2, num_classes=7)
    state = {f"module.encoder_q.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": {**state, "module.queue": torch.zeros(1)}}, tmp_path / "a.pth")
    report = import_backbone(str(tmp_path / "a.pth"), str(out))
    assert report.num_classes == 7 and report.unused == {"module.queue": "not of the network"}
    imported = torch.load(out, weights_only=True)["model"]
    for name, value in network.state_dict().items():
        assert torch.equal(imported[name], value)


def test_other_multiplier(random_network, load_backbone, out, tmp_path):
    network = random_network(torchvision.models.mobilenet_v2, width_mult=1.4)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    assert import_backbone(str(tmp_path / "a.pth"), str(out)).width_range == (1.4, 1.4)
    model, _ = load_backbone(out)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_same([model(image)["logits"]], [network(image)])


def test_narrow_network_with_a_shortcut_of_its_own(out, tmp_path):
    torch.save(torchvision.models.mobilenet_v2(width_mult=0.25).state_dict(), tmp_path / "a.pth")
    assert "adds a shortcut" in str(import_backbone(str(tmp_path / "a.pth"), str(out)))
    torch.save(torchvision.models.mobilenet_v2(width_mult=0.35).state_dict(), tmp_path / "a.pth")
    assert "adds a shortcut" not in str(import_backbone(str(tmp_path / "a.pth"), str(out)))


def test_without_classifier(random_network, load_backbone, out, tmp_path):
    network = random_network(lambda: timm.create_model("mobilenetv2_100", num_classes=0))
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "a.pth.tar")
    report = import_backbone(str(tmp_path / "a.pth.tar"), str(out))
    assert report.num_classes == 0
    assert report.unused["conv_head.weight"] == "a tail without a classifier"
    model, _ = load_backbone(out)
    assert list(model(torch.zeros(1, 3, 64, 64))) == ["res2", "res3", "res4", "res5"]


def test_half_precision(random_network, out, tmp_path):
    network = random_network(torchvision.models.mobilenet_v2).half()
    torch.save(network.state_dict(), tmp_path / "a.pth")
    import_backbone(str(tmp_path / "a.pth"), str(out))
    state = torch.load(out, weights_only=True)["model"]
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


# Detectron2 --------------------------------------------------------------------------------------


@pytest.fixture
def detectron2_resnet(random_network):
    """Detectron2's own ResNet-50 of all features, with frozen normalisation."""

    def build():
        cfg = get_cfg()
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        return build_resnet_backbone(cfg, ShapeSpec(channels=3))

    network = random_network(build)
    for name, buffer in network.named_buffers():
        if name.endswith("weight"):
            nn.init.uniform_(buffer, 0.5, 1.5)
        elif name.endswith(("bias", "running_mean")):
            nn.init.normal_(buffer, std=0.2)
        else:
            nn.init.uniform_(buffer, 0.5, 1.5)
    return network


def numpy_of(network):
    return {key: value.numpy() for key, value in network.state_dict().items()}


def assert_computes_the_same(model, network):
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = list(model(image).values())[:4]
        assert_same(features, list(network(image).values()), 1e-5, scaled=True)


@pytest.mark.parametrize(
    "protocol, author, preprocessing, told",
    [
        (2, "MSRA", BGR, "stride on the 1x1"),
        (5, "torchvision", RGB, "stride on the 3x3"),
    ],
)
def test_detectron2_names(
    detectron2_resnet, load_backbone, out, tmp_path, protocol, author, preprocessing, told
):
    state = numpy_of(detectron2_resnet)
    state["stem.fc.weight"] = np.zeros((5, 2048), dtype=np.float32)
    state["stem.fc.bias"] = np.arange(5, dtype=np.float32)
    content = {"model": state, "__author__": author, "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    report = import_backbone(str(tmp_path / "R-50.pkl"), str(out))
    model, content = load_backbone(out)
    assert_computes_the_same(model, detectron2_resnet)
    assert torch.equal(content["model"]["fc.bias"], torch.arange(5.0))
    assert content["mutualnet"]["preprocessing"] == preprocessing
    assert content["mutualnet"]["architecture"] == {
        "MODEL.BACKBONE.NAME": "build_slimmable_resnet_backbone",
        "MODEL.RESNETS.DEPTH": 50,
    }
    assert told in str(report) and preprocessing["INPUT.FORMAT"] in str(report)


def caffe2_name(key, norms):
    """What the Caffe2 model zoo calls an entry of Detectron2's ResNet."""
    layer, part = key.rsplit(".", 1)
    is_norm = layer.endswith(".norm")
    block = layer.removesuffix(".norm").split(".")
    branch = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    if block[0] == "stem":
        name = "res_conv1" if is_norm else "conv1"
    else:
        name = f"{block[0]}_{block[1]}_{branch[block[2]]}"
    return f"{name}_bn_{norms[part]}" if is_norm else f"{name}_w"


@pytest.mark.parametrize("folded", [False, True])
def test_caffe2_names(detectron2_resnet, load_backbone, out, tmp_path, folded):
    norms = {"weight": "gamma", "bias": "beta"}
    norms |= {"running_mean": "running_mean", "running_var": "running_var"}
    if folded:
        norms = {"weight": "s", "bias": "b"}
        for name, buffer in detectron2_resnet.named_buffers():
            if name.endswith("running_mean"):
                buffer.zero_()
            elif name.endswith("running_var"):
                buffer.fill_(1 - 1e-5)
    state = {
        caffe2_name(key, norms): value
        for key, value in numpy_of(detectron2_resnet).items()
        if ".norm." not in key or key.split(".")[-1] in norms
    }
    bias = np.linspace(-1, 1, 64, dtype=np.float32)
    state |= {"conv1_b": bias, "conv1_w_momentum": bias}
    state |= {"fc1000_w": np.ones((1000, 2048), np.float32), "fc1000_b": np.ones(1000, np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(state, protocol=2))
    report = import_backbone(str(tmp_path / "R-50.pkl"), str(out))
    model, content = load_backbone(out)
    # Detectron2's stem has no bias: its norm's mean stands for it.
    detectron2_resnet.stem.conv1.norm.running_mean -= torch.from_numpy(bias)
    assert_computes_the_same(model, detectron2_resnet)
    assert content["mutualnet"]["preprocessing"] == BGR
    assert ("folded into scale and shift" in str(report)) == folded
    assert report.unused["conv1_w_momentum"] == "not of the network"


def test_backbone_of_a_detector(detectron2_resnet, load_backbone, out, tmp_path):
    state = {f"backbone.bottom_up.{k}": v for k, v in numpy_of(detectron2_resnet).items()}
    state["roi_heads.box_head.fc1.weight"] = state["backbone.fpn_output2.bias"] = np.zeros(3)
    content = {"model": state, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    report = import_backbone(str(tmp_path / "a.pkl"), str(out), backbone_only=True)
    assert_computes_the_same(load_backbone(out)[0], detectron2_resnet)
    assert report.unused["roi_heads.box_head.fc1.weight"] == "not of the network"


# What is refused ---------------------------------------------------------------------------------


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def refuse(path, out, *texts):
    with pytest.raises(CheckpointError) as error:
        import_backbone(str(path), str(out))
    for text in (str(path), *texts):
        assert text in str(error.value)
    assert list(out.parent.glob(f"{out.name}*")) == []


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".tar", ".safetensors"])
@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_harmful_pickle_is_not_run(out, tmp_path, suffix, how):
    sprung, path = tmp_path / "sprung", tmp_path / f"weights{suffix}"
    content = {"model": {"conv1.weight": torch.zeros(1) if how != "pickle" else np.zeros(1)}}
    content["extra"] = Trap(sprung)
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    refuse(path, out)
    assert not sprung.exists()


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["pth", "pkl", "safetensors"])
def test_truncated_file(out, tmp_path, kind, keep):
    path = tmp_path / f"a.{kind}"
    state = {"conv1.weight": torch.rand(64, 3, 7, 7)}
    if kind == "pkl":
        path.write_bytes(pickle.dumps({"conv1.weight": np.random.rand(64, 3, 7, 7)}))
    else:
        (torch.save if kind == "pth" else save_file)(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: keep if keep >= 1 else int(keep * len(content))])
    refuse(path, out)


@pytest.mark.parametrize(
    "change, texts",
    [
        (lambda s: s.clear(), ["holds no weights"]),
        (
            lambda s: s.pop("features.7.conv.0.0.weight"),
            ["nearest is MobileNetV2 of torchvision", "missing 1: features.7.conv.0.0.weight"],
        ),
        (
            lambda s: s.update({"features.18.conv.0.weight": torch.zeros(1), "x": torch.zeros(1)}),
            ["MobileNetV2 of torchvision", "unknown 2: features.18.conv.0.weight, x"],
        ),
        (
            lambda s: s.update({"features.7.conv.0.0.weight": torch.zeros(3, 64, 1, 1)}),
            ["features.7.conv.0.0.weight has shape (3, 64, 1, 1); expected (192, 32, 1, 1)"],
        ),
        (
            lambda s: s.update({"features.7.conv.3.weight": torch.zeros(63)}),
            ["features.7.conv.3.weight has 63 channels; expected 64", "at width 1"],
        ),
        (
            lambda s: s.update({"features.0.0.weight": torch.zeros(32, 1, 3, 3)}),
            ["features.0.0.weight has shape (32, 1, 3, 3); expected (32, 3, 3, 3)"],
        ),
        (
            lambda s: s.update({"classifier.1.weight": torch.tensor(1.0)}),
            ["classifier.1.weight has shape ()"],
        ),
        (
            lambda s: s["features.7.conv.3.running_var"].fill_(float("nan")),
            ["features.7.conv.3.running_var is not finite"],
        ),
    ],
)
def test_damaged_state_dict(out, tmp_path, change, texts):
    state = dict(torchvision.models.mobilenet_v2(num_classes=2).state_dict())
    change(state)
    torch.save(state, tmp_path / "a.pth")
    refuse(tmp_path / "a.pth", out, *texts)


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5", "squeezenet1_0"])
def test_other_networks(out, tmp_path, name):
    torch.save(getattr(torchvision.models, name)().state_dict(), tmp_path / "a.pth")
    refuse(tmp_path / "a.pth", out, "in no known layout. The nearest is", "Known are")


def test_own_checkpoint(out, tmp_path):
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "a.pth")
    import_backbone(str(tmp_path / "a.pth"), str(tmp_path / "b.pth"))
    refuse(tmp_path / "b.pth", out, "of this project already")


def test_places_that_cannot_be_written(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(torchvision.models.mobilenet_v2().state_dict(), path)
    before = path.read_bytes()
    for place in (path, tmp_path, tmp_path / "nowhere" / "out.pth"):
        with pytest.raises(CheckpointError, match=str(place)):
            import_backbone(str(path), str(place))
    assert path.read_bytes() == before


def test_a_write_that_fails_leaves_what_was_there(out, tmp_path, monkeypatch):
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "a.pth")
    out.write_bytes(b"older")

    def fail(_, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match=f"{out} could not be written: No space"):
        import_backbone(str(tmp_path / "a.pth"), str(out))
    assert out.read_bytes() == b"older" and len(list(tmp_path.iterdir())) == 2


def test_what_is_written_is_read_back(out, tmp_path):
    torch.save(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "a.pth")
    import_backbone(str(tmp_path / "a.pth"), str(out))
    assert set(read_checkpoint(str(out))) == {"model", "mutualnet"}

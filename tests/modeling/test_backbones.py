"""What all families share: each is, at every width, the plain network of those channels."""

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from torchvision.models import resnet, vgg
from torchvision.models._utils import _make_divisible
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import Conv2dNormActivation

from mutualnet_det.config import ConfigError
from mutualnet_det.modeling import SlimmableFPN
from mutualnet_det.modeling.backbones import VGG16, MobileNetV1, MobileNetV2, ResNet, WideResNet
from mutualnet_det.slimmable import Calibrations, OperatingPoint, Width, at_width, sliced

FEATURES = ["res2", "res3", "res4", "res5"]
CLASSES = 7
WIDTHS = [0.25, 0.55, 1.0, 1.4]


# Plain networks of a width, from torchvision where it has them; without a classifier for 0 classes.


def rounded(base, width):
    return _make_divisible(base * width, 8)


class PlainMobileNetV1(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        bases = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
        strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
        layer = functools.partial(Conv2dNormActivation, activation_layer=nn.ReLU6)
        counts = [rounded(base, width) for base in bases]
        layers = [layer(3, counts[0], 3, 2)]
        for (before, after), stride in zip(pairwise(counts), strides, strict=True):
            depthwise = layer(before, before, 3, stride, groups=before)
            layers.append(nn.Sequential(depthwise, layer(before, after, 1)))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Identity()
        if num_classes:
            self.classifier = nn.Sequential(nn.Linear(counts[-1], num_classes))

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def plain_mobilenet_v2(width, num_classes):
    network = torchvision.models.mobilenet_v2(width_mult=width, num_classes=max(num_classes, 1))
    # At the smallest widths torchvision adds a shortcut where 32 and 16 channels are both 8.
    network.features[1].use_res_connect = False
    if not num_classes:
        network.features = network.features[:18]
        network.classifier = nn.Identity()
    return network


def plain_resnet(width, num_classes):
    # Inner dimensions and the stem are a quarter of a rounded number.
    outer = [rounded(base, width) for base in (256, 512, 1024, 2048)]
    network = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1])
    network.inplanes = outer[0] // 4
    network.conv1 = nn.Conv2d(3, network.inplanes, 7, 2, 3, bias=False)
    network.bn1 = nn.BatchNorm2d(network.inplanes)
    for number, (count, blocks) in enumerate(zip(outer, (3, 4, 6, 3), strict=True), start=1):
        layer = network._make_layer(resnet.Bottleneck, count // 4, blocks, min(number, 2))
        setattr(network, f"layer{number}", layer)
    network.fc = nn.Linear(outer[-1], num_classes) if num_classes else nn.Identity()
    return network


def plain_vgg(width, num_classes):
    layers = [base if base == "M" else rounded(base, width) for base in vgg.cfgs["D"]]
    network = vgg.VGG(vgg.make_layers(layers, batch_norm=True))
    hidden = rounded(4096, width)
    network.classifier[0] = nn.Linear(layers[-2] * 7 * 7, hidden)
    network.classifier[3] = nn.Linear(hidden, hidden)
    if num_classes:
        network.classifier[6] = nn.Linear(hidden, num_classes)
    else:
        network.classifier = nn.Identity()
    return network


class PlainWideBlock(nn.Module):
    def __init__(self, before, after, stride, projects):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        if projects:
            self.convShortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x):
        active = F.relu(self.bn1(x))
        shortcut = self.convShortcut(active) if hasattr(self, "convShortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(active)))) + shortcut


class PlainWideResNet(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        counts = [rounded(base, width) for base in (16, 160, 320, 640)]
        self.conv1 = nn.Conv2d(3, counts[0], 3, 1, 1, bias=False)
        for number, (before, after) in enumerate(pairwise(counts), start=1):
            blocks = [PlainWideBlock(before, after, min(number, 2), True)]
            blocks += [PlainWideBlock(after, after, 1, False) for _ in range(3)]
            group = nn.Module()
            group.layer = nn.Sequential(*blocks)
            setattr(self, f"block{number}", group)
        self.bn1 = nn.BatchNorm2d(counts[-1])
        self.fc = nn.Linear(counts[-1], num_classes)

    def forward(self, x):
        x = self.block3.layer(self.block2.layer(self.block1.layer(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1).flatten(1))


class Family(NamedTuple):
    build: Callable  # of a Width
    plain: Callable  # of a width and a number of classes
    taps: tuple[str, ...]  # layers of the plain network that give res2 .. res5
    channels: dict[float, tuple[int, ...]]  # of res2 .. res5, by width
    stages: tuple[tuple[str, ...], ...]  # layers with parameters, by stage


def blocks(*indices):
    return tuple(f"features.{index}." for index in indices)


DETECTION = {
    "mobilenet_v1": Family(
        MobileNetV1,
        PlainMobileNetV1,
        ("features.3", "features.5", "features.11", "features.13"),
        {0.25: (32, 64, 128, 256), 1.0: (128, 256, 512, 1024)},
        (blocks(0, 1), blocks(2, 3), blocks(4, 5), blocks(*range(6, 12)), blocks(12, 13)),
    ),
    "mobilenet_v2": Family(
        MobileNetV2,
        plain_mobilenet_v2,
        ("features.3", "features.6", "features.13", "features.17"),
        {0.25: (8, 8, 24, 80), 1.0: (24, 32, 96, 320)},
        (
            blocks(0, 1),
            blocks(2, 3),
            blocks(4, 5, 6),
            blocks(*range(7, 14)),
            blocks(*range(14, 18)),
        ),
    ),
    "resnet": Family(
        ResNet,
        plain_resnet,
        ("layer1", "layer2", "layer3", "layer4"),
        {0.25: (64, 128, 256, 512), 1.0: (256, 512, 1024, 2048)},
        (("conv1.", "bn1."), ("layer1.",), ("layer2.",), ("layer3.",), ("layer4.",)),
    ),
    "vgg16_bn": Family(
        VGG16,
        plain_vgg,
        ("features.22", "features.32", "features.42", "features.43"),
        {0.25: (64, 128, 128, 128), 1.0: (256, 512, 512, 512)},
        (
            blocks(*range(13)),
            blocks(*range(13, 23)),
            blocks(*range(23, 33)),
            blocks(*range(33, 43)),
            (),
        ),
    ),
}
WIDE = Family(
    WideResNet,
    PlainWideResNet,
    (),
    {},
    (("conv1.",), ("block1.",), ("block2.",), ("block3.", "bn1.")),
)
FAMILIES = {**DETECTION, "wide_resnet": WIDE}

each_family = pytest.mark.parametrize("name", FAMILIES)
each_detection_family = pytest.mark.parametrize("name", DETECTION)


def classifier(name, *width, num_classes=CLASSES, **options):
    return FAMILIES[name].build(Width(*width), num_classes=num_classes, **options)


def images(side=64, channels=3, seed=1):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(seed))


def randomized(model):
    """Set scales and shifts that a mistake in their slicing would show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        elif getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def calibrated(model, widths):
    calibrations = Calibrations(model)
    for width in widths:
        calibrations.calibrate(OperatingPoint(width, 64), [images()])
    return calibrations


def meta(make, *args, **kwargs):
    """A network without memory, whose weights another's can become."""
    with torch.device("meta"):
        return make(*args, **kwargs)


@functools.cache
def features_of(name):
    """A backbone that may be up to 1.4 wide, calibrated at every width of the test."""
    torch.manual_seed(0)
    return calibrated(randomized(FAMILIES[name].build(Width(0.25, 1.4))), WIDTHS)


@functools.cache
def logits_of(name):
    """A narrow classification network, calibrated at its ends."""
    torch.manual_seed(0)
    return calibrated(randomized(classifier(name, 0.25, 0.5, out_features=["logits"])), (0.25, 0.5))


def assert_equals(calibrations, point, plain, taps):
    """Assert that the network at a calibrated point does what ``plain`` does with its weights."""
    inputs = images(96, seed=2)
    with torch.no_grad(), calibrations.at(point):
        plain.load_state_dict(sliced(calibrations.model).state_dict(), strict=True, assign=True)
        actual = calibrations.model(inputs)
        expected = create_feature_extractor(plain.eval(), taps)(inputs)
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].shape == tensor.shape
        assert (actual[name] - tensor).abs().max() < 1e-5
        assert (tensor[0] - tensor[1]).abs().max() > 0.01  # not equal for being constant


@each_detection_family
@pytest.mark.parametrize("width", WIDTHS)
def test_features_are_a_plain_networks_of_that_width(name, width):
    family = FAMILIES[name]
    taps = dict(zip(family.taps, FEATURES, strict=True))
    plain = meta(family.plain, width, 0)
    assert_equals(features_of(name), OperatingPoint(width, 64), plain, taps)


@each_family
@pytest.mark.parametrize("width", [0.25, 0.5])
def test_logits_are_a_plain_networks_of_that_width(name, width):
    plain = meta(FAMILIES[name].plain, width, CLASSES)
    last = [layer for layer, module in plain.named_modules() if isinstance(module, nn.Linear)][-1]
    assert_equals(logits_of(name), OperatingPoint(width, 64), plain, {last: "logits"})


@each_family
@pytest.mark.parametrize("width", [0.35, 1.6])
def test_weights_are_a_plain_networks_of_that_width(name, width):
    actual, expected = (
        {key: tensor.shape for key, tensor in network.state_dict().items()}
        for network in (
            meta(classifier, name, 0.25, width, out_features=["logits"]),
            meta(FAMILIES[name].plain, width, CLASSES),
        )
    )
    assert actual == expected


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("mobilenet_v2", {}, torchvision.models.mobilenet_v2),
        ("resnet", {"depth": 50}, torchvision.models.resnet50),
        ("resnet", {"depth": 101}, torchvision.models.resnet101),
        ("resnet", {"depth": 152}, torchvision.models.resnet152),
        ("vgg16_bn", {}, torchvision.models.vgg16_bn),
    ],
)
def test_full_network_is_torchvisions(name, options, plain):
    torch.manual_seed(0)
    model = classifier(name, num_classes=1000, out_features=["logits"], **options).eval()
    full = OperatingPoint(1.0, 64)
    calibrated(model, [1.0]).copy_to_running(full)
    expected = meta(plain).eval()
    expected.load_state_dict(model.state_dict(), strict=True, assign=True)
    with torch.no_grad():
        actual, reference = model(images(96))["logits"], expected(images(96))
    assert (actual - reference).abs().max() < 1e-5
    assert (reference[0] - reference[1]).abs().max() > 0.01


# torchvision's initialisation; for the families it does not have, the public code's.
LINEAR_DEVIATIONS = {
    "mobilenet_v1": lambda fan_in: 0.01,
    "mobilenet_v2": lambda fan_in: 0.01,
    "resnet": lambda fan_in: (3 * fan_in) ** -0.5,
    "vgg16_bn": lambda fan_in: 0.01,
    "wide_resnet": lambda fan_in: (3 * fan_in) ** -0.5,
}


@each_family
def test_initialisation(name):
    torch.manual_seed(0)
    model = classifier(name, 0.25, 0.25, num_classes=1000, out_features=["logits"])
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            deviation = (2 / (height * width * module.out_channels)) ** 0.5
        elif isinstance(module, nn.Linear):
            deviation = LINEAR_DEVIATIONS[name](module.in_features)
        else:
            continue
        error = 4 / (2 * module.weight.numel()) ** 0.5
        assert module.weight.std().item() == pytest.approx(deviation, rel=error)
        assert abs(module.weight.mean().item()) < 4 * deviation / module.weight.numel() ** 0.5
        if module.bias is not None:
            assert (name == "resnet") == bool(module.bias.any())


@each_detection_family
def test_describes_its_features(name):
    model = FAMILIES[name].build(Width(0.25, 1.0)).train()
    shapes = model.output_shape()
    assert list(shapes) == FEATURES
    assert [shape.stride for shape in shapes.values()] == [4, 8, 16, 32]
    for width, channels in FAMILIES[name].channels.items():
        with at_width(model, width):
            features = model(torch.zeros(2, 3, 64, 96))
        assert [tensor.shape for tensor in features.values()] == [
            (2, count, 64 // stride, 96 // stride)
            for count, stride in zip(channels, (4, 8, 16, 32), strict=True)
        ]
        assert tuple(model.feature_channels[key].at(width) for key in FEATURES) == channels
    assert tuple(shape.channels for shape in shapes.values()) == FAMILIES[name].channels[1.0]


@each_family
def test_describes_its_logits(name):
    outputs = ["logits"] if name == "wide_resnet" else ["res3", "logits"]
    model = classifier(name, 0.25, 0.25, out_features=outputs)
    assert model.output_shape()["logits"] == ShapeSpec(channels=CLASSES)
    features = model(images())
    assert list(features) == list(model.output_shape()) == outputs
    assert features["logits"].shape == (2, CLASSES)


@each_family
def test_unknown_features_are_an_error(name):
    expected = "logits" if name == "wide_resnet" else "res2, res3, res4, res5, logits"
    with pytest.raises(ValueError, match=f"out_features holds 'res6'; expected {expected}"):
        meta(classifier, name, 0.25, 0.25, out_features=["res6"])


@each_family
def test_image_channels_never_slim(name):
    model = classifier(name, 0.25, 0.5, in_channels=4, out_features=["logits"]).train()
    with at_width(model, 0.25):
        model(images(channels=4))
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        assert first.plain().in_channels == 4


@each_family
def test_freeze_at_freezes_weights_scales_and_shifts_alone(name):
    stages = FAMILIES[name].stages
    build = functools.partial(classifier, name, 0.25, 0.25, out_features=["logits"])
    for freeze_at in range(len(stages) + 1):
        frozen = tuple(prefix for stage in stages[:freeze_at] for prefix in stage)
        model = meta(build, freeze_at=freeze_at)
        for key, parameter in model.named_parameters():
            assert parameter.requires_grad != key.startswith(frozen), (freeze_at, key)
    model = build(freeze_at=len(stages)).train()
    before = {key: buffer.clone() for key, buffer in model.named_buffers()}
    model(images())
    assert not any(torch.equal(buffer, before[key]) for key, buffer in model.named_buffers())
    with pytest.raises(ValueError, match=f"FREEZE_AT is 6; expected 0 to {len(stages)}"):
        meta(build, freeze_at=6)


@each_family
def test_is_built_from_the_config(tiny_cfg, name):
    tiny_cfg.MUTUALNET.WIDTH_RANGE = (0.25, 0.5)
    tiny_cfg.MODEL.BACKBONE.NAME = f"build_slimmable_{name}_backbone"
    tiny_cfg.MODEL.BACKBONE.FREEZE_AT = 1
    tiny_cfg.MODEL.BACKBONE.NUM_CLASSES = CLASSES
    model = build_backbone(tiny_cfg, ShapeSpec(channels=4))
    assert type(model) is FAMILIES[name].build
    assert (model.width.minimum, model.width.maximum) == (0.25, 0.5)
    assert list(model.output_shape()) == ["logits"]
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == 4 and not first.weight.requires_grad


@each_detection_family
def test_carries_a_pyramid(tiny_cfg, name):
    tiny_cfg.MODEL.FPN.BOTTOM_UP = f"build_slimmable_{name}_backbone"
    model = build_backbone(tiny_cfg).train()
    assert isinstance(model, SlimmableFPN)
    assert type(model.bottom_up) is FAMILIES[name].build
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    with at_width(model, 0.25):
        features = model(images())
        sum(tensor.square().sum() for tensor in features.values()).backward()
    assert {key: tuple(tensor.shape) for key, tensor in features.items()} == {
        f"p{level}": (2, 8, 64 // 2**level, 64 // 2**level) for level in range(2, 7)
    }
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            with at_width(model, 0.25):
                count = module.plain().out_channels
            assert module.weight.grad[:count].any() and not module.weight.grad[count:].any()


@pytest.mark.parametrize(("depth", "blocks"), [(50, 16), (101, 33), (152, 50)])
def test_resnets_depth_is_the_configs(tiny_cfg, depth, blocks):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_slimmable_resnet_backbone"
    tiny_cfg.MODEL.RESNETS.DEPTH = depth
    model = meta(build_backbone, tiny_cfg, ShapeSpec(channels=3))
    assert sum(len(getattr(model, f"layer{number}")) for number in range(1, 5)) == blocks


def test_other_depth_of_a_resnet_is_an_error(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_slimmable_resnet_backbone"
    tiny_cfg.MODEL.RESNETS.DEPTH = 34
    with pytest.raises(ConfigError, match="DEPTH is 34; expected one of 50, 101, 152"):
        build_backbone(tiny_cfg, ShapeSpec(channels=3))


def test_wide_resnet_is_for_classification_alone(tiny_cfg):
    tiny_cfg.MODEL.BACKBONE.NAME = "build_slimmable_wide_resnet_backbone"
    with pytest.raises(ConfigError, match="NUM_CLASSES is 0; expected at least 1"):
        build_backbone(tiny_cfg, ShapeSpec(channels=3))


def test_wide_resnet_has_the_papers_size():
    model = meta(classifier, "wide_resnet", 0.25, 1.0, num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 36_479_194  # "36.5M" in the paper


@pytest.mark.parametrize("resolution", [32, 28, 24, 20])
def test_wide_resnet_takes_cifars_resolutions(resolution):
    calibrations = logits_of("wide_resnet")
    with torch.no_grad(), calibrations.at(OperatingPoint(0.25, 64)):
        assert calibrations.model(images(resolution))["logits"].shape == (2, CLASSES)


def test_wide_resnet_projects_where_counts_agree_by_chance():
    # At width 0.05 both 16 and 160 channels are 8: a full network's projection stays.
    model = classifier("wide_resnet", 0.05, 0.25)
    with at_width(model, 0.05):
        first = model.block1.layer[0]
        projection = first.convShortcut.plain()
        assert (projection.in_channels, projection.out_channels) == (8, 8)
    assert [block.convShortcut is None for block in model.block1.layer] == [False, *[True] * 3]


@pytest.mark.parametrize("width", [0.25, 1.0])
@each_detection_family
def test_recomputed_activations_change_nothing_but_memory(name, width):
    """Gradients and statistics are those of an ordinary pass, which keeps more for backward."""
    passes = []
    for recomputes in (False, True):
        torch.manual_seed(0)
        model = FAMILIES[name].build(Width(0.25, 1.0)).train()
        model.recomputes = recomputes
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.data_ptr()] = tensor.numel()
            return tensor

        with at_width(model, width):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = sum(feature.square().mean() for feature in model(images()).values())
            held = sum(kept.values())
            loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters()}
        passes.append((held, gradients, model.state_dict()))
    (held, gradients, state), (fewer, others, other_state) = passes
    for key, gradient in gradients.items():
        assert torch.equal(gradient, others[key]), key
    for key, value in state.items():
        assert torch.equal(value, other_state[key]), key
    parameters = sum(p.numel() for p in model.parameters())
    assert fewer < (held + parameters) / 2

"""Networks in the layout of the public slimmable code, in plain torch; backbones from files."""

from itertools import pairwise

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn
from torchvision.models._utils import _make_divisible

from mutualnet_det import add_mutualnet_config

FEATURES = ("res2", "res3", "res4", "res5", "logits")


def count(base, width, ratio=1.0):
    return int(_make_divisible(base * width / ratio, 8) * ratio)


def conv_norm_relu(channels, kernel=1, stride=1, groups=1, relu=None):
    conv = nn.Conv2d(*channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels[1], momentum=None), *([relu] if relu else [])]


class Block(nn.Module):
    """``body`` and, where the shape changes in a residual one, ``shortcut``."""

    def __init__(self, body, shortcut=None, residual=False, adds=False):
        super().__init__()
        self.adds = adds
        self.body = nn.Sequential(*body)
        if shortcut:
            self.shortcut = nn.Sequential(*shortcut)
        self.residual = residual

    def forward(self, x):
        if not self.residual:
            return x + self.body(x) if self.adds else self.body(x)
        return torch.relu(self.body(x) + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class PublicNetwork(nn.Module):
    """The plain network of one width, in the layout's names; gives what ``FEATURES`` names."""

    def __init__(self, features, taps, num_classes):
        super().__init__()
        self.features = nn.Sequential(*features)
        out_channels = [m for m in self.features.modules() if isinstance(m, nn.BatchNorm2d)]
        self.classifier = nn.Sequential(nn.Linear(out_channels[-1].num_features, num_classes))
        self.taps = taps

    def forward(self, x):
        tapped = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                tapped.append(x)
        return [*tapped, self.classifier(x.mean((2, 3)))]


def mobilenet_v1(width, num_classes=10):
    bases = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    strides = [1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1]
    counts = [count(base, width) for base in bases]
    layers = [nn.Sequential(*conv_norm_relu((3, counts[0]), 3, 2, relu=nn.ReLU6()))]
    for (before, after), stride in zip(pairwise(counts), strides, strict=True):
        depthwise = conv_norm_relu((before, before), 3, stride, before, nn.ReLU6())
        layers.append(Block(depthwise + conv_norm_relu((before, after), relu=nn.ReLU6())))
    return PublicNetwork(layers, (3, 5, 11, 13), num_classes)


def mobilenet_v2(width, num_classes=10):
    before = count(32, width)
    layers = [nn.Sequential(*conv_norm_relu((3, before), 3, 2, relu=nn.ReLU6()))]
    base = 32
    for expansion, after_base, repeats, first_stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for repeat in range(repeats):
            stride = 1 if repeat else first_stride
            inner, after = count(base * expansion, width, expansion), count(after_base, width)
            body = conv_norm_relu((before, inner), relu=nn.ReLU6()) if expansion > 1 else []
            body += conv_norm_relu((inner, inner), 3, stride, inner, nn.ReLU6())
            body += conv_norm_relu((inner, after))
            layers.append(Block(body, adds=stride == 1 and base == after_base))
            before, base = after, after_base
    layers.append(nn.Sequential(*conv_norm_relu((before, 1280), relu=nn.ReLU6())))
    return PublicNetwork(layers, (3, 6, 13, 17), num_classes)


def resnet50(width, num_classes=10):
    before = count(64, width, 0.25)
    stem = conv_norm_relu((3, before), 7, 2, relu=nn.ReLU())
    layers = [nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))]
    for stage, repeats in enumerate((3, 4, 6, 3)):
        inner = count(64 * 2**stage, width, 0.25)
        after = count(256 * 2**stage, width)
        for repeat in range(repeats):
            stride = 2 if stage and not repeat else 1
            body = [
                *conv_norm_relu((before, inner), relu=nn.ReLU()),
                *conv_norm_relu((inner, inner), 3, stride, relu=nn.ReLU()),
                *conv_norm_relu((inner, after)),
            ]
            shortcut = None if repeat else conv_norm_relu((before, after), 1, stride)
            layers.append(Block(body, shortcut, residual=True))
            before = after
    return PublicNetwork(layers, (3, 7, 13, 16), num_classes)


class PublicCheckpoint:
    """
    A random network in the layout of the public code, and the plain network at each width.

    Args:
        build: of a width, the plain network.
        full: the largest width.
    """

    def __init__(self, build, full=1.0):
        torch.manual_seed(0)
        self.build, self.full = build, full
        self.weights = build(full)
        for module in self.weights.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)

    def at(self, width, batches):
        """The network of a width in evaluation mode, with its statistics on ``batches``."""
        network = self.build(width)
        full = dict(self.weights.named_parameters())
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(full[name][tuple(slice(n) for n in parameter.shape)])
            for batch in batches:
                network.train()(batch)
        return network.eval()

    def save(self, path, widths, batches, updated=None):
        """
        Write it with statistics of ``widths``, in that order; those not in ``updated`` are as at
        the start of a training.
        """
        state = dict(self.weights.named_parameters())
        for k, width in enumerate(widths):
            seen = batches if updated is None or width in updated else []
            for name, module in self.at(width, seen).named_modules():
                if name == "features.18.1":  # of one pair for all widths: the last one's here
                    state |= {f"{name}.{n}": b for n, b in module.named_buffers()}
                elif isinstance(module, nn.BatchNorm2d):
                    state |= {f"{name}.bn.{k}.{n}": b for n, b in module.named_buffers()}
        state = {f"module.{name}": value.detach().clone() for name, value in state.items()}
        torch.save({"model": state, "optimizer": {}, "last_epoch": 249}, path)


@pytest.fixture(
    scope="session", params=[mobilenet_v1, mobilenet_v2, resnet50], ids=lambda build: build.__name__
)
def public(request):
    """A checkpoint of the public code, full width 1."""
    return PublicCheckpoint(request.param)


@pytest.fixture(scope="session")
def public_mobilenet_v1():
    return PublicCheckpoint(mobilenet_v1)


@pytest.fixture(scope="session")
def wide_mobilenet_v1():
    """One that was scaled to width 1.6."""
    return PublicCheckpoint(mobilenet_v1, full=1.6)


@pytest.fixture
def load_backbone():
    """
    Builds, from the path of a backbone's checkpoint and nothing else, the backbone in evaluation
    mode with its weights; gives the file's content too.
    """

    def load(path, features=FEATURES):
        content = torch.load(path, weights_only=True)
        cfg = get_cfg()
        add_mutualnet_config(cfg)
        for key, value in content["mutualnet"]["architecture"].items():
            cfg.merge_from_list([key, value])
        cfg.MUTUALNET.WIDTH_RANGE = tuple(content["mutualnet"]["width_range"])
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        linear = [v for k, v in content["model"].items() if k.startswith(("classifier", "fc"))]
        cfg.MODEL.BACKBONE.NUM_CLASSES = len(linear[-1]) if linear else 0
        builder = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)
        model = builder(cfg, ShapeSpec(channels=3))
        model._out_features = [name for name in features if linear or name != "logits"]
        model.load_state_dict(content["model"], strict=True)
        return model.eval(), content

    return load


def randomise(network):
    """Norms as after a training: none at 0 and 1."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.fixture
def random_network():
    """Makes, from a constructor, a network in evaluation mode with random statistics."""

    def make(build, **options):
        torch.manual_seed(0)
        return randomise(build(**options))

    return make

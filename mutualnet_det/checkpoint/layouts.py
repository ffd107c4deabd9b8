"""
Layouts: how others name and store the weights of the networks that this project has.

A layout is written as one mapping, from this project's names to the layout's. Importing reads it
backwards and exporting forwards.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor

from ..config import add_mutualnet_config
from ..modeling.backbones import SlimmableBackbone, mobilenet_v2, resnet
from ..modeling.layers import set_norms
from .provenance import backbone_builder
from .reading import CheckpointError

# ImageNet's mean and deviation of red, green and blue, in units of 0-255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


# How the names of what a norm keeps beside scale and shift end.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def differ_in_statistics(names: Iterable[str], expected: Iterable[str]) -> bool:
    """
    Tell whether the names of two networks' entries differ by all statistics of one of them and
    nothing else: it has batch normalisation, the other one group normalisation.
    """
    fewer, more = sorted((set(names), set(expected)), key=len)
    statistics = {name for name in more if name.endswith(STATISTICS)}
    return bool(statistics) and fewer == more - statistics


@dataclass(frozen=True)
class Preprocessing:
    """Channel order ("RGB" or "BGR"), and mean and deviation per channel in units of 0-255."""

    channel_order: str = "RGB"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


# Detectron2's default, of the ResNets of Microsoft Research Asia that it starts from.
MSRA = Preprocessing("BGR", IMAGENET_MEAN[::-1], (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Architecture:
    """A network of this project: its name in the literature, its builder, and a ResNet's depth."""

    name: str
    builder: str
    depth: int | None = None

    def config(
        self,
        num_classes: int,
        width_range: tuple[float, float] = (1.0, 1.0),
        resolutions: tuple[int, ...] = (224,),
        preprocessing: Preprocessing = Preprocessing(),
    ) -> CfgNode:
        """The config of it as a classification network; 0 classes: without a classifier."""
        cfg = get_cfg()
        add_mutualnet_config(cfg)
        cfg.MODEL.META_ARCHITECTURE = "MutualClassifier"
        cfg.MODEL.BACKBONE.NAME = self.builder
        cfg.MODEL.BACKBONE.NUM_CLASSES = num_classes
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        cfg.MODEL.PIXEL_MEAN = list(preprocessing.mean)
        cfg.MODEL.PIXEL_STD = list(preprocessing.std)
        cfg.INPUT.FORMAT = preprocessing.channel_order
        cfg.MUTUALNET.WIDTH_RANGE = tuple(width_range)
        cfg.MUTUALNET.RESOLUTIONS = tuple(resolutions)
        if self.depth is not None:
            cfg.MODEL.RESNETS.DEPTH = self.depth
        return cfg


MOBILENET_V1 = Architecture("MobileNetV1", "build_slimmable_mobilenet_v1_backbone")
MOBILENET_V2 = Architecture("MobileNetV2", "build_slimmable_mobilenet_v2_backbone")
VGG16_BN = Architecture("VGG-16-BN", "build_slimmable_vgg16_bn_backbone")
RESNETS = tuple(
    Architecture(f"ResNet-{depth}", "build_slimmable_resnet_backbone", depth)
    for depth in resnet.BLOCKS
)


def skeleton(cfg: CfgNode) -> SlimmableBackbone:
    """The backbone that a config names, without memory for its weights (on the meta device)."""
    name = cfg.MODEL.BACKBONE.NAME
    with torch.device("meta"):
        backbone = BACKBONE_REGISTRY.get(name)(cfg, ShapeSpec(channels=3))
        set_norms(cfg, backbone)
        return backbone


def classifier_entries(cfg: CfgNode) -> list[str]:
    """The names that the config's backbone has as a classification network."""
    cfg = cfg.clone()
    cfg.defrost()
    _, cfg.MODEL.BACKBONE.NAME = backbone_builder(cfg)
    cfg.MODEL.BACKBONE.NUM_CLASSES = 1
    return list(skeleton(cfg).state_dict())


@dataclass(frozen=True)
class Layout:
    """
    The form in which one code base stores one network.

    Attributes:
        source: whose layout it is, for people.
        architecture: of what network.
        rename: from a name of this project to the layout's.
        clean: from the names as they stand in a file to uniform ones, where a code base has had
            several spellings; None for what is no part of the network.
        kernels: linear layers of this project that are convolutions there, with the side of their
            kernel: weight (Co, Ci * side * side) here, (Co, Ci, side, side) there.
        stem_bias: a bias of the first convolution, which has none here.
        may_fold: whether statistics may be absent, folded into scale and shift.
        preprocessing: what the published weights in this layout were trained with.
    """

    source: str
    architecture: Architecture
    rename: Callable[[str], str] = str
    clean: Callable[[str], str | None] = str
    kernels: Mapping[str, int] = field(default_factory=dict)
    stem_bias: str | None = None
    may_fold: bool = False
    preprocessing: Preprocessing = Preprocessing()

    def __str__(self) -> str:
        return f"{self.architecture.name} of {self.source}"

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """The layout's name of every entry, classifier included, by this project's."""
        return {key: self.rename(key) for key in entries(self.architecture)}

    @functools.cached_property
    def backbone_names(self) -> dict[str, str]:
        """The entries that a detector's backbone has."""
        keys = entries(self.architecture, num_classes=0)
        return {key: name for key, name in self.names.items() if key in keys}

    @functools.cached_property
    def classifier(self) -> str:
        """The project's name of the last linear layer's weight, (classes, C)."""
        shapes = entries(self.architecture)
        return [key for key, ndim in shapes.items() if key.endswith(".weight") and ndim == 2][-1]

    @functools.cached_property
    def known(self) -> set[str]:
        """The layout's names of all that a network in it may have."""
        return {*self.names.values(), *([self.stem_bias] if self.stem_bias else [])}

    @functools.cached_property
    def head(self) -> str:
        """What the layout's names of a classifier begin with, and those of other heads there."""
        return re.split(r"(?<=[._])", self.names[self.classifier])[0]

    @functools.cached_property
    def required(self) -> list[str]:
        """The layout's names that a file must have to be in it."""
        optional = STATISTICS if self.may_fold else ("num_batches_tracked",)
        return [name for key, name in self.backbone_names.items() if not key.endswith(optional)]

    def to_project(self, key: str, value: Tensor) -> Tensor:
        """An entry as it has to be under this project's name ``key``."""
        return value.flatten(1) if key in self.kernels and value.dim() == 4 else value

    def from_project(self, key: str, value: Tensor) -> Tensor:
        """The inverse of :meth:`to_project`."""
        side = self.kernels.get(key)
        return value if side is None else value.reshape(value.shape[0], -1, side, side)


@functools.cache
def entries(architecture: Architecture, num_classes: int = 1) -> dict[str, int]:
    """The numbers of dimensions in a network's state dict; 0 classes: without a classifier."""
    state = skeleton(architecture.config(num_classes)).state_dict()
    return {key: value.dim() for key, value in state.items()}


# timm ---------------------------------------------------------------------------------------------


def _timm_mobilenet_v2(key: str) -> str:
    layer, part = key.rsplit(".", 1)
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1"}
    names |= {"features.18.0": "conv_head", "features.18.1": "bn2", "classifier.1": "classifier"}
    if layer in names:
        return f"{names[layer]}.{part}"
    _, index, _, place = layer.split(".", 3)
    stage, block = _stage_and_block(int(index))
    parts = {"0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2"}
    parts |= {"2": "conv_pwl", "3": "bn3"}
    if index == "1":  # without expansion
        parts = {"0.0": "conv_dw", "0.1": "bn1", "1": "conv_pw", "2": "bn2"}
    return f"blocks.{stage}.{block}.{parts[place]}.{part}"


def _stage_and_block(index: int) -> tuple[int, int]:
    """Names of MobileNetV2's block ``features.<index>``, from 0."""
    block = index - 1
    for stage, (_, _, repeats, _) in enumerate(mobilenet_v2.STAGES):
        if block < repeats:
            return stage, block
        block -= repeats
    raise ValueError(f"MobileNetV2 has no block {index}.")


def _timm_vgg(key: str) -> str:
    for ours, theirs in (("0", "pre_logits.fc1"), ("3", "pre_logits.fc2"), ("6", "head.fc")):
        key = key.replace(f"classifier.{ours}.", f"{theirs}.")
    return key


# The public slimmable code ------------------------------------------------------------------------


def _slimmable_mobilenet_v1(key: str) -> str:
    # features.B.I.J, layer J of the I-th convolution with norm and ReLU, is body.(3 I + J) there.
    return re.sub(
        r"^features\.(\d+)\.(\d)\.(\d)\.",
        lambda m: f"features.{m[1]}.body.{3 * int(m[2]) + int(m[3])}.",
        key,
    )


def _slimmable_mobilenet_v2(key: str) -> str:
    key = key.replace("classifier.1.", "classifier.0.")
    match = re.match(r"features\.(\d+)\.conv\.(\d)(?:\.(\d))?\.(\D.*)", key)
    if match is None:
        return key
    block, place, layer, part = match.groups()
    if layer is not None:
        number = 3 * int(place) + int(layer)
    else:  # the projection and its norm, behind one or two convolutions of three layers each
        number = int(place) + (2 if block == "1" else 4)
    return f"features.{block}.body.{number}.{part}"


def _slimmable_resnet(architecture: Architecture) -> Callable[[str], str]:
    parts = {"conv1": "body.0", "bn1": "body.1", "conv2": "body.3", "bn2": "body.4"}
    parts |= {"conv3": "body.6", "bn3": "body.7"}
    stem = {"conv1": "features.0.0", "bn1": "features.0.1", "fc": "classifier.0"}
    repeats = resnet.BLOCKS[architecture.depth]

    def rename(key: str) -> str:
        layer, rest = key.split(".", 1)
        if layer in stem:
            return f"{stem[layer]}.{rest}"
        stage = int(layer.removeprefix("layer"))
        block, part, rest = rest.split(".", 2)
        number = 1 + sum(repeats[: stage - 1]) + int(block)
        return f"features.{number}.{parts.get(part, 'shortcut')}.{rest}"

    return rename


# What a detector of Detectron2 has around its backbone, and this project's under the same names.
AROUND_BACKBONE = re.compile(
    r"backbone\.(fpn_\w+|top_block)\.|(proposal_generator|roi_heads|head|sem_seg_head)\."
)


# Detectron2 and Caffe2 ----------------------------------------------------------------------------


def _detectron2_resnet(key: str) -> str:
    key = key.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    key = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", key)
    key = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", key)
    return re.sub(r"^conv1\.", "stem.conv1.", key).replace("fc.", "linear.")


def _clean_detectron2(key: str) -> str | None:
    if AROUND_BACKBONE.match(key):
        return None
    # Its script that converts torchvision's networks puts all that is in no stage into the stem.
    return key.removeprefix("backbone.").removeprefix("bottom_up.").replace("stem.fc.", "linear.")


_CAFFE2_PARTS = {"weight": "w", "bias": "b"}
_CAFFE2_NORMS = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}


def _caffe2_resnet(key: str) -> str:
    layer, part = key.rsplit(".", 1)
    if layer == "fc":
        return f"fc1000_{_CAFFE2_PARTS[part]}"
    if part == "num_batches_tracked":
        return key  # Caffe2 counts none
    branches = {"1": "branch2a", "2": "branch2b", "3": "branch2c"}
    is_norm = layer.split(".")[-1].startswith("bn") or layer.endswith("downsample.1")
    end = f"_bn_{_CAFFE2_NORMS[part]}" if is_norm else f"_{_CAFFE2_PARTS[part]}"
    if layer in ("conv1", "bn1"):
        return ("res_conv1" if is_norm else "conv1") + end
    stage, block, place = layer.split(".", 2)
    branch = "branch1" if place.startswith("downsample") else branches[place[-1]]
    return f"res{int(stage[-1]) + 1}_{block}_{branch}{end}"


def _clean_caffe2(key: str) -> str | None:
    if key.endswith("_momentum"):
        return None
    key = re.sub(r"^pred_([wb])$", r"fc1000_\1", key)
    for theirs, short in (("gamma", "s"), ("beta", "b")):
        key = key.replace(f"_bn_{theirs}", f"_bn_{short}")
    return key.replace("_bn_running_mean", "_bn_rm").replace("_bn_running_var", "_bn_riv")


TORCHVISION = "torchvision"
TIMM = "timm"
SLIMMABLE = "the public MutualNet and US-Net code"
DETECTRON2 = "Detectron2"
CAFFE2 = "Detectron2's model zoo, in Caffe2's names"

LAYOUTS: tuple[Layout, ...] = (
    *(Layout(TORCHVISION, network) for network in (MOBILENET_V2, *RESNETS, VGG16_BN)),
    Layout("this project", MOBILENET_V1),
    Layout(TIMM, MOBILENET_V2, _timm_mobilenet_v2),
    # Its ResNets have torchvision's names.
    Layout(TIMM, VGG16_BN, _timm_vgg, kernels={"classifier.0.weight": 7, "classifier.3.weight": 1}),
    Layout(SLIMMABLE, MOBILENET_V1, _slimmable_mobilenet_v1),
    Layout(SLIMMABLE, MOBILENET_V2, _slimmable_mobilenet_v2),
    *(Layout(SLIMMABLE, network, _slimmable_resnet(network)) for network in RESNETS),
    *(
        Layout(DETECTRON2, network, _detectron2_resnet, _clean_detectron2, preprocessing=MSRA)
        for network in RESNETS
    ),
    *(
        Layout(
            CAFFE2,
            network,
            _caffe2_resnet,
            _clean_caffe2,
            stem_bias="conv1_b",
            may_fold=True,
            preprocessing=MSRA,
        )
        for network in RESNETS
    ),
)


def recognise(names: Iterable[str], path: str) -> Layout:
    """
    The layout that a file's entries have these names in; a classifier may be absent, or another
    head in its place.

    CheckpointError, naming the nearest layout and the first entries that differ, if there is none.
    """
    names = list(names)
    if not names:
        raise CheckpointError(f"{path} holds no weights.")
    nearest, best, differences = LAYOUTS[0], -1.0, ""
    for layout in LAYOUTS:
        cleaned = {name: layout.clean(name) for name in names}
        present = set(cleaned.values())
        missing = [name for name in layout.required if name not in present]
        unknown = [
            name
            for name, clean in cleaned.items()
            if clean not in layout.known and not (clean or layout.head).startswith(layout.head)
        ]
        if not missing and not unknown:
            return layout
        alike = (len(layout.required) - len(missing)) / (len(layout.required) + len(unknown))
        if alike > best:
            nearest, best = layout, alike
            differences = "; ".join(
                text
                for keys, text in (
                    (missing, f"missing {len(missing)}: {', '.join(missing[:3])}"),
                    (unknown, f"unknown {len(unknown)}: {', '.join(unknown[:3])}"),
                )
                if keys
            )
    raise CheckpointError(
        f"{path} is in no known layout. The nearest is {nearest}, of {len(nearest.required)} "
        f"entries; the first that differ: {differences}. Known are: "
        f"{'; '.join(map(str, LAYOUTS))}."
    )

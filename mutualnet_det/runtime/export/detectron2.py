"""
Detectron2: a config and weights.

Where Detectron2 has the architecture at the point's channels, they load without this project. That
is so of R-CNNs (Faster, Mask, Cascade, Keypoint) on ResNets whose stages double their channels, as
they do at every width of which 256 times is a multiple of 8, and at few others. Under the scope
"neck" it is the largest width alone: inside and outside, Detectron2's FPN has one number of
channels. Elsewhere a config names one of the plain networks that this project registers.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import Tensor, nn

from ...checkpoint.layouts import DETECTRON2, LAYOUTS
from ...config import add_mutualnet_config
from ...family import outputs
from ...modeling.backbones import ResNet
from ...slimmable import Channels, OperatingPoint
from .card import Format, normalisation, resizing
from .plain import PLAIN_PREFIX, Runner, check_finds_objects, run

CONFIG = "config.yaml"
FILE = "model.pth"
TAKES_BATCHES = True

# What Detectron2 calls the parts that this project has slimmable, by where a config names them.
STOCK_NAMES = {
    "MODEL.META_ARCHITECTURE": {"MutualRCNN": "GeneralizedRCNN"},
    "MODEL.BACKBONE.NAME": {"build_slimmable_fpn_backbone": "build_resnet_fpn_backbone"},
    "MODEL.RPN.HEAD_NAME": {"SlimmableRPNHead": "StandardRPNHead"},
    "MODEL.ROI_HEADS.NAME": {
        "SlimmableROIHeads": "StandardROIHeads",
        "SlimmableCascadeROIHeads": "CascadeROIHeads",
    },
    "MODEL.ROI_BOX_HEAD.NAME": {"SlimmableFastRCNNConvFCHead": "FastRCNNConvFCHead"},
    "MODEL.ROI_MASK_HEAD.NAME": {"SlimmableMaskRCNNConvUpsampleHead": "MaskRCNNConvUpsampleHead"},
    "MODEL.ROI_KEYPOINT_HEAD.NAME": {
        "SlimmableKRCNNConvDeconvUpsampleHead": "KRCNNConvDeconvUpsampleHead"
    },
}


def check(cfg: CfgNode, model: nn.Module) -> None:
    """ExportError for a model that cannot be written in this format."""
    check_finds_objects(cfg)


def write(plain: nn.Module, cfg: CfgNode, point: OperatingPoint, folder: Path) -> None:
    """Write a plain network into a folder."""
    config, state = _stock(plain, cfg, point) or (_plain_config(cfg, point), plain.state_dict())
    config.OUTPUT_DIR = get_cfg().OUTPUT_DIR
    config.MODEL.DEVICE = "cpu"
    config.MODEL.WEIGHTS = FILE
    config.INPUT.MIN_SIZE_TEST = point.resolution
    config.DATASETS.TRAIN = config.DATASETS.TEST = ()
    (folder / CONFIG).write_text(config.dump())
    torch.save({"model": state}, folder / FILE)


def is_stock(folder: Path) -> bool:
    """Tell whether Detectron2 loads what is in a folder without this project."""
    return "MUTUALNET" not in CfgNode.load_yaml_with_base(str(folder / CONFIG))


def load(folder: Path) -> Runner:
    """Load what runs the network in a folder."""
    cfg = get_cfg()
    if not is_stock(folder):
        add_mutualnet_config(cfg)
    cfg.merge_from_file(str(folder / CONFIG))
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(str(folder / FILE))
    return lambda images: run(model, images)


def describe(plain: nn.Module, cfg: CfgNode, point: OperatingPoint, folder: Path) -> Format:
    """Text of a card about the network in a folder."""
    stock = is_stock(folder)
    beside = [f"pred_{name}s" for name in ("mask", "keypoint") if name in outputs(cfg)]
    fields = ["pred_boxes", "scores", "pred_classes", *beside]
    lines = [
        "from detectron2.config import get_cfg",
        "from detectron2.data.detection_utils import read_image",
        "from detectron2.engine import DefaultPredictor",
        *([] if stock else ["from mutualnet_det import add_mutualnet_config"]),
        "",
        "cfg = get_cfg()",
        *([] if stock else ["add_mutualnet_config(cfg)"]),
        f'cfg.merge_from_file("{CONFIG}")  # on the CPU: else change cfg.MODEL.DEVICE',
        "predictor = DefaultPredictor(cfg)",
        'instances = predictor(read_image("image.jpg", format="BGR"))["instances"]',
    ]
    return Format(
        "Detectron2",
        ("torch", "torchvision", "detectron2"),
        f"`{CONFIG}` and `{FILE}` load "
        + (
            "in Detectron2 as it is: it has the architecture at these channels."
            if stock
            else "in Detectron2 together with this project: Detectron2 has no such architecture at "
            "these channels."
        )
        + " Paths in the config are relative to the folder that a program runs in.",
        "Of `DefaultPredictor`: an image (H, W, 3) in uint8 of any size, in the order B G R, which "
        f"is {resizing(cfg, point)}. Of the model: Detectron2's, with images already resized, in "
        f"the order {' '.join(cfg.INPUT.FORMAT)}. "
        f"{normalisation(cfg, plain.backbone.size_divisibility)}",
        f"Detectron2's `Instances` with {', '.join(f'`{name}`' for name in fields)}, in px of the "
        "image that was given.",
        "\n".join(lines) + "\n",
    )


def _plain_config(cfg: CfgNode, point: OperatingPoint) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = PLAIN_PREFIX + cfg.MODEL.META_ARCHITECTURE
    cfg.MUTUALNET.TEST_POINT = str(point)
    cfg.DATASETS.COCO_FORMAT = []
    return cfg


def _stock(
    plain: nn.Module, cfg: CfgNode, point: OperatingPoint
) -> tuple[CfgNode, dict[str, Tensor]] | None:
    """Detectron2's own config and state dict of a plain network; None where there is none."""
    bottom_up = getattr(plain.backbone, "bottom_up", None)
    if not isinstance(bottom_up, ResNet):
        return None
    stock = get_cfg()
    _take_over(stock, cfg)
    for key, names in STOCK_NAMES.items():
        *nodes, last = key.split(".")
        node = functools.reduce(getattr, nodes, stock)
        node[last] = names.get(node[last], node[last])
    model = stock.MODEL
    slims = cfg.MUTUALNET.SCOPE == "heads"
    pyramid = point.width if slims else cfg.MUTUALNET.WIDTH_RANGE[1]

    def channels(base: int) -> int:
        return Channels(base).at(point.width) if slims else base

    model.FPN.OUT_CHANNELS = Channels(cfg.MODEL.FPN.OUT_CHANNELS).at(pyramid)
    for node, key in (
        (model.ROI_BOX_HEAD, "CONV_DIM"),
        (model.ROI_BOX_HEAD, "FC_DIM"),
        (model.ROI_MASK_HEAD, "CONV_DIM"),
    ):
        node[key] = channels(node[key])
    model.ROI_KEYPOINT_HEAD.CONV_DIMS = list(map(channels, model.ROI_KEYPOINT_HEAD.CONV_DIMS))
    model.RESNETS.NORM = "BN"
    model.RESNETS.STRIDE_IN_1X1 = False
    model.RESNETS.OUT_FEATURES = list(model.FPN.IN_FEATURES)
    model.RESNETS.STEM_OUT_CHANNELS = bottom_up.conv1.out_channels
    model.RESNETS.WIDTH_PER_GROUP = bottom_up.layer1[0].conv1.out_channels
    model.RESNETS.RES2_OUT_CHANNELS = bottom_up.layer1[0].conv3.out_channels
    # Freezing would turn the first norms into others.
    model.BACKBONE.FREEZE_AT = 0
    model.DEVICE = "cpu"
    try:
        network = build_model(stock)
        state = _renamed(plain.state_dict(), cfg)
        network.load_state_dict(state)
    # A part that Detectron2 lacks, an entry it lacks, or another number of channels.
    except (KeyError, RuntimeError):
        return None
    return stock, state


def _renamed(state: dict[str, Tensor], cfg: CfgNode) -> dict[str, Tensor]:
    """A state dict with the ResNet in Detectron2's names."""
    (layout,) = (
        layout
        for layout in LAYOUTS
        if layout.source == DETECTRON2 and layout.architecture.depth == cfg.MODEL.RESNETS.DEPTH
    )
    prefix = "backbone.bottom_up."
    return {
        prefix + layout.rename(key.removeprefix(prefix)) if key.startswith(prefix) else key: value
        for key, value in state.items()
    }


def _take_over(target: CfgNode, source: CfgNode) -> None:
    """Copy the values of all keys that ``target`` has."""
    for key, value in target.items():
        if isinstance(value, CfgNode):
            _take_over(value, source[key])
        else:
            target[key] = source[key]

"""Provenance of weights: their preprocessing, widths, resolutions, scope and classes."""

from __future__ import annotations

import logging
from typing import Any

from detectron2.config import CfgNode

from ..config import trained_widths
from ..data.class_names import check_same_classes, class_names
from ..family import HAS_SCOPE, family

logger = logging.getLogger(__name__)

# Where a config names its backbone: under a pyramid, and elsewhere.
BUILDER_KEYS = ("MODEL.FPN.BOTTOM_UP", "MODEL.BACKBONE.NAME")
RESNET_BUILDER = "build_slimmable_resnet_backbone"
# What to do where data sets have other classes than a model.
FINE_TUNE = (
    " To fine-tune the model on these classes, set MODEL.WEIGHTS to its checkpoint and another "
    "OUTPUT_DIR, and train without --resume."
)


def backbone_builder(cfg: CfgNode) -> tuple[str, str]:
    """The key that names the backbone itself, and the registered name it gives."""
    key = BUILDER_KEYS["fpn" not in cfg.MODEL.BACKBONE.NAME]
    return key, cfg.MODEL.FPN.BOTTOM_UP if key == BUILDER_KEYS[0] else cfg.MODEL.BACKBONE.NAME


def provenance(cfg: CfgNode) -> dict[str, Any]:
    """The facts that stand in a checkpoint beside the weights; plain values only."""
    key, builder = backbone_builder(cfg)
    architecture: dict[str, Any] = {key: builder}
    if builder == RESNET_BUILDER:
        architecture["MODEL.RESNETS.DEPTH"] = cfg.MODEL.RESNETS.DEPTH
    if HAS_SCOPE[family(cfg)]:
        architecture["MUTUALNET.SCOPE"] = cfg.MUTUALNET.SCOPE
    resolutions = cfg.MUTUALNET.RESOLUTIONS
    if cfg.MUTUALNET.METHOD in ("us_net", "independent"):
        resolutions = resolutions[:1]
    return {
        "preprocessing": {
            "INPUT.FORMAT": cfg.INPUT.FORMAT,
            "MODEL.PIXEL_MEAN": [float(x) for x in cfg.MODEL.PIXEL_MEAN],
            "MODEL.PIXEL_STD": [float(x) for x in cfg.MODEL.PIXEL_STD],
        },
        "architecture": architecture,
        "width_range": list(trained_widths(cfg)),
        "resolutions": [int(x) for x in resolutions],
        "classes": class_names(cfg),
    }


def check_provenance(
    saved: dict[str, Any], cfg: CfgNode, path: str, *, starts: bool = False
) -> None:
    """
    ValueError, naming file, key and both values, where a checkpoint does not fit a config.

    A checkpoint may be a backbone's: it is then held against the config's backbone. What it does
    not say is not checked. Resolutions may differ: fine-tuning at others is legitimate.

    Args:
        starts: whether a training starts from the weights: the config's full network may then be
            one of their sub-networks, and its classes may be others.
    """
    wanted = provenance(cfg)
    for group in ("preprocessing", "architecture"):
        saved_group = saved.get(group, {})
        for key, value in wanted[group].items():
            names = BUILDER_KEYS if key in BUILDER_KEYS else (key,)
            was = next((saved_group[name] for name in names if name in saved_group), value)
            if was != value:
                raise ValueError(
                    f"{path} was trained with {key} {was}, the config has {value}. "
                    f"Set {key} in the config, or use weights trained that way."
                )
    trained = saved.get("width_range", wanted["width_range"])
    check_width_range(trained, cfg, path, narrower=starts)
    if not starts:
        check_same_classes(
            saved.get("classes", {}), path, wanted["classes"], "the config's data sets", FINE_TUNE
        )


def check_width_range(
    trained: list[float], cfg: CfgNode, path: str, *, narrower: bool = False
) -> None:
    """
    ValueError, naming both ranges, where a config asks for widths that weights are not trained at.

    With ``MUTUALNET.ALLOW_UNTRAINED_WIDTHS`` widths below them are a warning.

    Args:
        narrower: whether the config's full network may be one of their sub-networks.
    """
    low, high = trained
    smallest, largest = trained_widths(cfg)
    was = f"at widths {low} to {high}" if low < high else f"at width {high} alone"
    ranges = (
        f"{path} was trained {was}, MUTUALNET.WIDTH_RANGE is {tuple(cfg.MUTUALNET.WIDTH_RANGE)}."
    )
    if largest > high or (largest < high and not narrower):
        must = "not be above" if narrower else "be the same"
        raise ValueError(f"{ranges} The largest width must {must} and the smallest not below.")
    if smallest < low and not cfg.MUTUALNET.ALLOW_UNTRAINED_WIDTHS:
        raise ValueError(
            f"{ranges} Widths below {low} would start untrained. Raise the smallest width, take "
            "weights trained at it, or set MUTUALNET.ALLOW_UNTRAINED_WIDTHS True to train on from "
            "these."
        )
    if smallest < low:
        logger.warning("%s Widths below %s start untrained.", ranges, low)

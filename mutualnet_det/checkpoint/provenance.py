"""What weights were trained for: their preprocessing, widths, resolutions and scope."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode


def provenance(cfg: CfgNode) -> dict[str, Any]:
    """What stands in a checkpoint beside the weights; plain values only."""
    return {
        "preprocessing": {
            "INPUT.FORMAT": cfg.INPUT.FORMAT,
            "MODEL.PIXEL_MEAN": [float(x) for x in cfg.MODEL.PIXEL_MEAN],
            "MODEL.PIXEL_STD": [float(x) for x in cfg.MODEL.PIXEL_STD],
        },
        "architecture": {
            "MODEL.FPN.BOTTOM_UP": cfg.MODEL.FPN.BOTTOM_UP,
            "MUTUALNET.SCOPE": cfg.MUTUALNET.SCOPE,
        },
        "width_range": [float(x) for x in cfg.MUTUALNET.WIDTH_RANGE],
        "resolutions": [int(x) for x in cfg.MUTUALNET.RESOLUTIONS],
    }


def check_provenance(saved: dict[str, Any], cfg: CfgNode, path: str) -> None:
    """
    ValueError, naming file, key and both values, where a checkpoint does not fit a config.

    Resolutions may differ: fine-tuning at others is legitimate.
    """
    wanted = provenance(cfg)
    for group in ("preprocessing", "architecture"):
        for key, value in wanted[group].items():
            if group in saved and saved[group].get(key, value) != value:
                raise ValueError(
                    f"{path} was trained with {key} {saved[group][key]}, the config has {value}. "
                    f"Set {key} in the config, or use weights trained that way."
                )
    low, high = saved.get("width_range", wanted["width_range"])
    smallest, largest = wanted["width_range"]
    if smallest < low or largest != high:
        raise ValueError(
            f"{path} was trained at widths {low} to {high}, MUTUALNET.WIDTH_RANGE is "
            f"({smallest}, {largest}). The largest width must be the same and the smallest not "
            "below."
        )

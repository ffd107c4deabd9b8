"""The operating points that a config names."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.config import CfgNode

from ..errors import ConfigError
from ..slimmable import OperatingPoint
from .choices import ALONE


def full_point(cfg: CfgNode) -> OperatingPoint:
    """The full network: the largest width at the largest resolution."""
    return OperatingPoint(float(cfg.MUTUALNET.WIDTH_RANGE[1]), int(cfg.MUTUALNET.RESOLUTIONS[0]))


def eval_point(cfg: CfgNode) -> OperatingPoint:
    """The operating point that ``MUTUALNET.TEST_POINT`` names; the full network if it is empty."""
    text = cfg.MUTUALNET.TEST_POINT
    return OperatingPoint.parse(text) if text else full_point(cfg)


def eval_points(cfg: CfgNode) -> list[OperatingPoint]:
    """The operating points that are evaluated during training, ascending."""
    points = sorted(map(OperatingPoint.parse, cfg.MUTUALNET.EVAL_POINTS))
    return points or [eval_point(cfg)]


def trained_widths(cfg: CfgNode) -> tuple[float, float]:
    """Smallest and largest width that a config trains."""
    low, high = (float(width) for width in cfg.MUTUALNET.WIDTH_RANGE)
    return (high if cfg.MUTUALNET.METHOD in ALONE else low), high


def grid_points(cfg: CfgNode) -> list[OperatingPoint]:
    """The operating points of ``MUTUALNET.GRID``, ascending."""
    low, high = trained_widths(cfg)
    even = {low, high}  # as they are: rounded, they may lie outside
    even |= {min(max(round(low + (high - low) * i / 3, 4), low), high) for i in (1, 2)}
    widths = cfg.MUTUALNET.GRID.WIDTHS or even
    resolutions = cfg.MUTUALNET.GRID.RESOLUTIONS or cfg.MUTUALNET.RESOLUTIONS
    return sorted(OperatingPoint(float(w), int(r)) for w in widths for r in resolutions)


def check_points(points: Sequence[OperatingPoint], cfg: CfgNode) -> None:
    """ConfigError, naming the point, for one twice or outside what the config has."""
    low, high = cfg.MUTUALNET.WIDTH_RANGE
    smallest, largest = min(cfg.MUTUALNET.RESOLUTIONS), max(cfg.MUTUALNET.RESOLUTIONS)
    for index, point in enumerate(points):
        if not low <= point.width <= high:
            raise ConfigError(
                f"Operating point {point}: width {point.width:g} is outside "
                f"MUTUALNET.WIDTH_RANGE, {low:g} to {high:g}."
            )
        if not smallest <= point.resolution <= largest:
            raise ConfigError(
                f"Operating point {point}: resolution {point.resolution} px is outside "
                f"MUTUALNET.RESOLUTIONS, {smallest} to {largest} px."
            )
        if point in points[:index]:
            raise ConfigError(f"Operating point {point} is given twice.")

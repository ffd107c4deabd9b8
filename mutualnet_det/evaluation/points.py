"""Which operating points a grid has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.config import CfgNode

from ..slimmable import OperatingPoint

# Widths of a grid whose config lists none.
NUM_WIDTHS = 4


def grid_points(cfg: CfgNode) -> list[OperatingPoint]:
    """The grid of a config: every one of its widths at every one of its resolutions, ascending."""
    node = cfg.MUTUALNET
    # Rounded, so that 4 widths over (0.25, 1.0) are those a reader would write down.
    widths = node.GRID.WIDTHS or np.linspace(*node.WIDTH_RANGE, NUM_WIDTHS).round(4).tolist()
    resolutions = node.GRID.RESOLUTIONS or node.RESOLUTIONS
    return sorted({OperatingPoint(float(w), int(r)) for r in resolutions for w in widths})


def check_points(points: Sequence[OperatingPoint], cfg: CfgNode) -> None:
    """
    ValueError, naming the point, unless all of ``points`` can be evaluated and none comes twice.

    Widths must lie in the trained range and resolutions between the trained ones.
    """
    if not points:
        raise ValueError("The list of operating points is empty.")
    narrowest, widest = cfg.MUTUALNET.WIDTH_RANGE
    lowest, highest = min(cfg.MUTUALNET.RESOLUTIONS), max(cfg.MUTUALNET.RESOLUTIONS)
    seen = set()
    for point in points:
        if not narrowest <= point.width <= widest:
            raise ValueError(
                f"Operating point {point}: width {point.width:g} is outside the trained range, "
                f"{narrowest:g} to {widest:g} (MUTUALNET.WIDTH_RANGE)."
            )
        if not lowest <= point.resolution <= highest:
            raise ValueError(
                f"Operating point {point}: resolution {point.resolution} px is outside the trained "
                f"ones, {lowest} to {highest} px (MUTUALNET.RESOLUTIONS)."
            )
        if point in seen:
            raise ValueError(f"Operating point {point} is given twice.")
        seen.add(point)

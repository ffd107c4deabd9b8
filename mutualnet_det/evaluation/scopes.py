"""Costs of a config's grid, and what it spans when more or less of the network slims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate

from ..config import SCOPES, grid_points
from ..family import Family, family
from ..slimmable import OperatingPoint, at_width
from .cost import Cost
from .point_costs import point_costs


@dataclass(frozen=True)
class ScopeSpan:
    """
    The cheapest and the dearest operating point of a grid under one scope.

    Attributes:
        scope: "backbone", "neck" or "heads".
        cheapest, dearest: the points.
        low, high: their GFLOPs.
    """

    scope: str
    cheapest: OperatingPoint
    dearest: OperatingPoint
    low: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.scope:<10} {self.low:8.2f} GFLOPs at {self.cheapest}   "
            f"{self.high:8.2f} GFLOPs at {self.dearest}   {self.high / self.low:5.1f}x"
        )


def grid_costs(cfg: CfgNode, image_size: tuple[int, int]) -> dict[OperatingPoint, Cost]:
    """
    The cost of every point of a config's grid, with the scope of the config.

    Args:
        image_size: (height, width) of the image in px, before it is resized; a classifier's is
            square.
    """
    model = build_model(cfg).eval()
    return point_costs(
        model, cfg, grid_points(cfg), [image_size], lambda point: at_width(model, point.width)
    )


def scope_spans(
    cfg: CfgNode, image_size: tuple[int, int], detections_per_image: float
) -> list[ScopeSpan]:
    """Table of what the grid of ``cfg`` spans in GFLOPs under each scope."""
    spans = []
    for scope in SCOPES:
        part = cfg.clone()
        part.defrost()
        part.MUTUALNET.SCOPE = scope
        totals = {
            point: cost.total(detections_per_image)
            for point, cost in grid_costs(part, image_size).items()
        }
        low, high = min(totals, key=totals.get), max(totals, key=totals.get)
        spans.append(ScopeSpan(scope, low, high, totals[low], totals[high]))
    return spans


# As text -----------------------------------------------------------------------------------------


def cost_report(cfg: CfgNode, image_size: tuple[int, int], detections_per_image: float) -> str:
    """Table of what ``cfg``'s grid costs, in the units that are usual for its kind of network."""
    return REPORTS[family(cfg)](cfg, image_size, detections_per_image)


def _network_report(cfg: CfgNode, image_size: tuple[int, int], detections_per_image: float) -> str:
    costs = grid_costs(cfg, image_size)
    rows = [(p, 1e3 * c.total(0), sum(c.parameters.values())) for p, c in costs.items()]
    return tabulate(rows, ("point", "MFLOPs", "parameters"), floatfmt=".1f")


def _parts_report(cfg: CfgNode, image_size: tuple[int, int], detections_per_image: float) -> str:
    costs = grid_costs(cfg, image_size)
    rows = [
        (point, cost.total(detections_per_image), *cost.by_part(detections_per_image).values())
        for point, cost in costs.items()
    ]
    first = next(iter(costs.values()))
    counted = f"GFLOPs at scope {cfg.MUTUALNET.SCOPE!r}"
    if first.num_proposals:
        counted += f", {first.num_proposals} proposals"
    if first.gflops_per_detection:
        counted += f", {detections_per_image:g} detections"
    height, width = image_size
    return "\n".join(
        (
            f"{counted}, on an image of {width} x {height} px\n",
            tabulate(rows, ("point", "total", *first.by_part(0)), floatfmt=".3f"),
            "\nWhat each scope spans over this grid:",
            *map(str, scope_spans(cfg, image_size, detections_per_image)),
        )
    )


REPORTS: dict[Family, Callable[[CfgNode, tuple[int, int], float], str]] = {
    Family.CLASSIFIER: _network_report,
    Family.SEMANTIC: _parts_report,
    Family.PANOPTIC: _parts_report,
    Family.RCNN: _parts_report,
    Family.DENSE: _parts_report,
}

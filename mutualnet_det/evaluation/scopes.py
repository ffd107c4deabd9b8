"""What the scopes span: the cost of a config's grid when more or less of the detector slims."""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..config import SCOPES, grid_points, is_classification
from ..slimmable import OperatingPoint, at_width
from .classification_cost import classification_costs
from .cost import Cost, count_points


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
    if is_classification(cfg):
        return classification_costs(model.backbone, grid_points(cfg))
    return count_points(
        cfg, model, grid_points(cfg), [image_size], lambda point: at_width(model, point.width)
    )


def scope_spans(
    cfg: CfgNode, image_size: tuple[int, int], detections_per_image: float
) -> list[ScopeSpan]:
    """What the grid of ``cfg`` spans in GFLOPs under each scope."""
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

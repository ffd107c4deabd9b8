"""Tasks that are evaluated on a data set: by a detector, a classifier or a semantic segmentor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from detectron2.config import CfgNode
from torch import nn

from ..data.faults import DatasetError
from ..family import Family, family
from ..slimmable import OperatingPoint
from .classification import ClassificationTask
from .cost import Cost
from .detection import DetectionTask
from .forward import At, PointResults
from .progress import Progress
from .results import Grid, GridRow
from .semantic import SemanticTask


class Task(Protocol):
    """
    The task that is evaluated on ``DATASETS.TEST``: made of a config and a model.

    Attributes:
        records: of the images.
        images_at_once: the most of them that :meth:`run` is to be given.
        facts: what ``grid.json`` says of the data ("classes": the names by the model's number of
            each) and of how time was measured.
        identity: what results must share to be one grid, beside weights, points and settings.
    """

    records: list[dict]
    images_at_once: int
    facts: dict[str, Any]
    identity: dict[str, Any]

    def begin(self, output: Path) -> None:
        """Write what the results will be compared with."""

    def costs(self, points: Sequence[OperatingPoint], at: At) -> dict[OperatingPoint, Cost]:
        """Count what each point costs; ``at`` switches the model to one."""

    def run(
        self, records: Sequence[dict], points: Sequence[OperatingPoint], at: At
    ) -> PointResults:
        """
        Args:
            records: of some of the images.
            points: by resolution, then width.

        Returns:
            point by point, what was found on each image, as JSON, with ``milliseconds`` or None.
        """

    def score(self, point: OperatingPoint, cost: Cost, progress: Progress, output: Path) -> GridRow:
        """Score what was found at a point on all images, and write it."""

    def finish(self, grid: Grid, progress: Progress, output: Path) -> None:
        """Draw the figures, and remove what an earlier evaluation left."""


def dataset_name(cfg: CfgNode) -> str:
    """The one data set of ``DATASETS.TEST``; DatasetError for none or several."""
    if len(cfg.DATASETS.TEST) != 1:
        raise DatasetError(
            f"A grid is evaluated on one data set; DATASETS.TEST is {tuple(cfg.DATASETS.TEST)}."
        )
    (name,) = cfg.DATASETS.TEST
    return name


TASKS: dict[Family, Callable[[CfgNode, nn.Module, str], Task]] = {
    Family.CLASSIFIER: ClassificationTask,
    Family.SEMANTIC: SemanticTask,
    Family.PANOPTIC: DetectionTask,
    Family.RCNN: DetectionTask,
    Family.DENSE: DetectionTask,
}


def build_task(cfg: CfgNode, model: nn.Module) -> Task:
    """The task of a model that ``cfg`` describes."""
    return TASKS[family(cfg)](cfg, model, dataset_name(cfg))

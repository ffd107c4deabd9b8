"""BudgetPredictor: a trained model that is given a budget with every image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

from ..data.images import evaluation_view
from ..slimmable import Calibrations, OperatingPoint
from .device import device_name, device_of
from .images import AnyImage, read_image
from .pretrained import (
    PredictorError,
    check_point,
    check_weights,
    load_pretrained,
    max_pixels,
)
from .query_table import BudgetError, QueryEntry, QueryTable


@dataclass(frozen=True)
class Prediction:
    """
    A model's prediction for one image.

    Attributes:
        point: the operating point it ran at.
        entry: what the query table says of the point, None where it is not in the table.
        output: the model's own output: Detectron2's "instances", "sem_seg" and "panoptic_seg",
            whichever the model has, at the scale of the image and on the model's device; of a
            classifier "scores" (K,).
    """

    point: OperatingPoint
    entry: QueryEntry | None
    output: dict[str, Any]

    @property
    def instances(self) -> Instances:
        """The detections, for a model that finds objects; else AttributeError."""
        if "instances" not in self.output:
            raise AttributeError(
                f"This model finds no objects; its output holds {', '.join(self.output)}."
            )
        return self.output["instances"]


class BudgetPredictor:
    """
    Runs a model at the best operating point that a budget allows.

    Several threads may call one predictor: images are prepared at the same time, and the model runs
    for one of them after the other.

    Args:
        cfg: what the model was trained with.
        model: in evaluation mode. It belongs to the predictor from then on: nothing else may run
            it, change its width or its weights.
        calibrations: of ``model``, or of its network: see
            :func:`~mutualnet_det.modeling.classifier.network_of`.
        table: of these weights.
        latency_device: the device of the table whose latencies milliseconds are looked up in; None:
            the one that the model runs on.

    Raises:
        PredictorError: if the table is of other weights, or lists points that are not calibrated.
        BudgetError: for a ``latency_device`` that the table lacks.

    Attributes:
        cfg: what the model was trained with.
        table: the operating points that budgets are looked up in.
        points: all that are calibrated, or in the table, ascending.
        latency_device: name of the device whose latencies milliseconds are looked up in.
        max_pixels: the most that an image may have, see
            :func:`~mutualnet_det.runtime.pretrained.max_pixels`.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        calibrations: Calibrations,
        table: QueryTable,
        *,
        latency_device: str | None = None,
    ) -> None:
        check_weights(table.model, calibrations, "The query table")
        listed = {entry.point for entry in table.entries}
        missing = [str(point) for point in sorted(listed) if point not in calibrations]
        self.table = table
        # Without statistics the table may list points that nobody has calibrated.
        self.points = tuple(sorted({*calibrations, *(p for p in listed if p in calibrations)}))
        if missing:
            raise PredictorError(
                f"The query table lists {', '.join(missing)}, which there is no calibration of; "
                f"calibrated are {', '.join(map(str, self.points)) or 'none'}. Take "
                "calibrations.pth along, which `mutualnet evaluate` writes beside the table where "
                "the checkpoint lacks some."
            )
        self.cfg = cfg
        self.max_pixels = max_pixels(cfg)
        self._model = model
        self._calibrations = calibrations
        self._entries = {entry.point: entry for entry in table.entries}
        if latency_device is not None:
            table.known_device(latency_device)
        self.latency_device = latency_device or device_name(self.device)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        *,
        latency_device: str | None = None,
    ) -> BudgetPredictor:
        """
        The predictor of a folder such as the OUTPUT_DIR of a training and its evaluation.

        Args:
            folder, device: see :func:`~mutualnet_det.runtime.pretrained.load_pretrained`.
            latency_device: see :class:`BudgetPredictor`.

        Raises:
            PredictorError: for a file that is missing, with how to make it; an unknown device; a
                table of other weights, or of points that are not calibrated.
            BudgetError: for a ``latency_device`` that the table lacks.
            CheckpointError, ConfigError, QueryTableError: for a file that cannot be used.
        """
        cfg, model, calibrations, table, table_file = load_pretrained(folder, device)
        try:
            return cls(cfg, model, calibrations, table, latency_device=latency_device)
        except (PredictorError, BudgetError) as error:
            raise type(error)(f"{table_file}: {error}") from error

    @property
    def device(self) -> torch.device:
        """The device where the model runs and its output lies."""
        return device_of(self._model)

    def __call__(
        self,
        image: AnyImage,
        *,
        gflops: float | None = None,
        milliseconds: float | None = None,
        point: OperatingPoint | str | None = None,
        clamp: bool = False,
    ) -> Prediction:
        """
        Run the model on an image, at one budget or point; without any, at the table's best.

        Args:
            image: a path, a PIL image, or an array (H, W, 3) of uint8 in BGR, the order of OpenCV
                and of Detectron2's ``DefaultPredictor``, whatever the model wants. An RGB array is
                given as ``PIL.Image.fromarray(array)``.
            gflops: budget per image, as the table counts it.
            milliseconds: budget per image, as the median latency on ``latency_device``. It is the
                network's alone: reading and resizing the image and pasting masks come on top.
            point: any calibrated operating point, such as "0.5x360".
            clamp: take the cheapest point of the table where none fits the budget.

        Raises:
            BudgetError: if no point fits; the message names the cheapest. Also for more than one of
                ``gflops``, ``milliseconds`` and ``point``, and for ``milliseconds`` where the table
                has no latencies of the device.
            ImageError: for an image that cannot be used.
            PredictorError: for a point that is not calibrated.
        """
        point, entry = self.choose(
            gflops=gflops, milliseconds=milliseconds, point=point, clamp=clamp
        )
        (output,) = self._run([self._inputs(image, point, "The image")], point)
        return Prediction(point, entry, output)

    def batch(
        self,
        images: Sequence[AnyImage],
        *,
        gflops: float | None = None,
        milliseconds: float | None = None,
        point: OperatingPoint | str | None = None,
        clamp: bool = False,
    ) -> list[Prediction]:
        """
        Run the model once on several images, of whatever sizes, at one point for all.

        Budgets are per image, as in :meth:`__call__`. Images share the memory of one forward. The
        smaller ones are padded to the largest, which moves detections by what padding does.

        Returns:
            a prediction for each image; none for none.
        """
        point, entry = self.choose(
            gflops=gflops, milliseconds=milliseconds, point=point, clamp=clamp
        )
        inputs = [
            self._inputs(image, point, f"images[{index}]") for index, image in enumerate(images)
        ]
        outputs = self._run(inputs, point) if inputs else []
        return [Prediction(point, entry, output) for output in outputs]

    def choose(
        self,
        *,
        gflops: float | None = None,
        milliseconds: float | None = None,
        point: OperatingPoint | str | None = None,
        clamp: bool = False,
    ) -> tuple[OperatingPoint, QueryEntry | None]:
        """The point to run at, and what the table says of it: see :meth:`__call__`."""
        given = {"gflops": gflops, "milliseconds": milliseconds, "point": point}
        texts = [f"{name}={value}" for name, value in given.items() if value is not None]
        if len(texts) > 1:
            raise BudgetError(
                f"Give one of gflops, milliseconds and point, got {', '.join(texts)}."
            )
        if point is not None:
            point = _as_point(point)
            check_point(self.cfg, self._calibrations, point)
            return point, self._entries.get(point)
        if texts:
            device = self.latency_device
            entry = self.table.lookup(
                gflops=gflops, milliseconds=milliseconds, device=device, clamp=clamp
            )
        else:
            entry = self.table.best
        return entry.point, entry

    def _inputs(self, image: AnyImage, point: OperatingPoint, name: str) -> dict[str, Any]:
        """Detectron2's inference input."""
        pixels, order = read_image(image, name, self.max_pixels)
        seen = evaluation_view(self.cfg, pixels, point.resolution)
        if order != self.cfg.INPUT.FORMAT:
            seen = seen.flip(0)  # here it is small
        return {"image": seen, "height": pixels.shape[0], "width": pixels.shape[1]}

    def _run(self, inputs: list[dict[str, Any]], point: OperatingPoint) -> list[dict[str, Any]]:
        # at() holds the lock on the model's width until the forward is through. The weights are
        # known to be those that were calibrated: to look at each again takes 0.4 ms.
        with self._calibrations.at(point, stale=True), torch.no_grad():
            outputs: list[dict[str, Any]] = self._model(inputs)
            return outputs


def _as_point(point: OperatingPoint | str) -> OperatingPoint:
    if isinstance(point, OperatingPoint):
        return point
    if not isinstance(point, str):
        raise PredictorError(
            f"point is {point!r}; expected an OperatingPoint or a text such as '0.5x360'."
        )
    try:
        return OperatingPoint.parse(point)
    except ValueError as error:
        raise PredictorError(f"point: {error}") from error

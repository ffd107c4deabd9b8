"""BudgetPredictor: a trained model that is given a budget with every image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import nn

from ..checkpoint import load_detector
from ..config import is_classification, load_config
from ..data.classification import evaluation_images
from ..data.images import resize_shortest_edge
from ..errors import UserError
from ..slimmable import Calibrations, OperatingPoint, StaleCalibrationError
from .device import device_name
from .images import AnyImage, read_image
from .query_table import BudgetError, QueryEntry, QueryTable

logger = logging.getLogger(__name__)

# What a folder holds, as training and tools/eval_grid.py leave it in OUTPUT_DIR.
WEIGHTS = "model_final.pth"
CONFIG = "config.yaml"
TABLES = ("query_table.json", "grid/query_table.json")


class PredictorError(UserError, ValueError):
    """A folder, device or operating point that no prediction can be made with."""


@dataclass(frozen=True)
class Prediction:
    """
    What a model found on one image.

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

    Raises:
        PredictorError: if the table is of other weights, or lists points that are not calibrated.

    Attributes:
        table: the operating points that budgets are looked up in.
        points: all that are calibrated, ascending.
    """

    def __init__(
        self, cfg: CfgNode, model: nn.Module, calibrations: Calibrations, table: QueryTable
    ) -> None:
        weights = calibrations.fingerprint()
        if table.model != weights:
            raise PredictorError(
                f"The query table is of other weights (fingerprint {table.model[:12]}, the model "
                f"has {weights[:12]}). Evaluate these, with tools/eval_grid.py."
            )
        missing = [str(entry.point) for entry in table.entries if entry.point not in calibrations]
        self.table = table
        self.points = tuple(sorted(calibrations))
        if missing:
            raise PredictorError(
                f"The query table lists {', '.join(missing)}, which the checkpoint has no "
                f"calibration of; calibrated are {self._calibrated()}. Evaluate only those, with "
                "tools/eval_grid.py --points, or name the others in MUTUALNET.GRID for the "
                "training, which then calibrates them."
            )
        self._cfg = cfg
        self._model = model
        self._calibrations = calibrations
        self._entries = {entry.point: entry for entry in table.entries}
        self._knows_device = False

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device | None = None
    ) -> BudgetPredictor:
        """
        The predictor of a folder such as the OUTPUT_DIR of a training and its evaluation.

        Args:
            folder: holds ``model_final.pth`` with the weights and their calibrations,
                ``config.yaml``, and ``query_table.json`` or ``grid/query_table.json``. Nothing else
                is read, and no code in any of them is run.
            device: to run on; None: the config's ``MODEL.DEVICE``, or the CPU where that is a GPU
                and there is none.

        Raises:
            PredictorError: for a file that is missing, with how to make it; an unknown device; a
                table of other weights, or of points that are not calibrated.
            CheckpointError, ConfigError, QueryTableError: for a file that cannot be used.
        """
        folder = Path(folder)
        weights, config, table_file = _files(folder)
        if device is not None:
            _check_device(device, "device")
        # Half precision is a matter of training, and a config with it is for a GPU alone.
        overrides = ["SOLVER.AMP.ENABLED", "False"]
        if device is not None:
            overrides += ["MODEL.DEVICE", str(torch.device(device))]
        cfg = load_config(str(config), overrides)
        _check_device(cfg.MODEL.DEVICE, f"{config}: MODEL.DEVICE")
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise PredictorError(
                f"{config}: INPUT.FORMAT is {cfg.INPUT.FORMAT!r}; a predictor runs models of RGB "
                "or BGR images."
            )
        table = QueryTable.load(table_file)
        try:
            model, calibrations = load_detector(cfg, str(weights))
        except StaleCalibrationError as error:
            raise PredictorError(f"{weights}: {error}") from error
        try:
            return cls(cfg, model, calibrations, table)
        except PredictorError as error:
            raise PredictorError(f"{table_file}: {error}") from error

    @property
    def device(self) -> torch.device:
        """Where the model runs and its output lies."""
        return self._model.device

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
        Run the model on an image, at one budget or point; without any, at the table's dearest.

        Args:
            image: a path, a PIL image, or an array (H, W, 3) of uint8 in BGR, the order of OpenCV
                and of Detectron2's ``DefaultPredictor``, whatever the model wants. An RGB array is
                given as ``PIL.Image.fromarray(array)``.
            gflops: budget per image, as the table counts it.
            milliseconds: budget per image on the device that the table was measured on.
            point: any calibrated operating point, such as "0.5x360".
            clamp: take the cheapest point of the table where none fits the budget.

        Raises:
            BudgetError: if no point fits; the message names the cheapest. Also for more than one of
                ``gflops``, ``milliseconds`` and ``point``.
            ImageError: for an image that cannot be used.
            PredictorError: for a point that is not calibrated.
            QueryTableError: for ``milliseconds``, if the table has none.
        """
        point, entry = self._choose(gflops, milliseconds, point, clamp)
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
        point, entry = self._choose(gflops, milliseconds, point, clamp)
        inputs = [
            self._inputs(image, point, f"images[{index}]") for index, image in enumerate(images)
        ]
        outputs = self._run(inputs, point) if inputs else []
        return [Prediction(point, entry, output) for output in outputs]

    def _choose(
        self,
        gflops: float | None,
        milliseconds: float | None,
        point: OperatingPoint | str | None,
        clamp: bool,
    ) -> tuple[OperatingPoint, QueryEntry | None]:
        """The point to run at, and what the table says of it."""
        given = {"gflops": gflops, "milliseconds": milliseconds, "point": point}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) > 1:
            found = ", ".join(f"{name}={value}" for name, value in given.items())
            raise BudgetError(f"Give one of gflops, milliseconds and point, got {found}.")
        if point is not None:
            point = _as_point(point)
            if point not in self._calibrations:
                raise PredictorError(
                    f"Operating point {point} is not calibrated; calibrated are "
                    f"{self._calibrated()}."
                )
            return point, self._entries.get(point)
        if milliseconds is not None and not self._knows_device:
            self._knows_device = True
            here = device_name(self.device)
            if here != self.table.device:
                logger.warning(
                    "Milliseconds of the query table are those of %s; this is %s.",
                    *(self.table.device, here),
                )
        entry = self.table.lookup(clamp=clamp, **given) if given else self.table.entries[-1]
        return entry.point, entry

    def _inputs(self, image: AnyImage, point: OperatingPoint, name: str) -> dict[str, Any]:
        """Detectron2's inference input."""
        pixels, order = read_image(image, name)
        if is_classification(self._cfg):
            (seen,) = evaluation_images(self._cfg, [pixels], point.resolution)
        else:
            seen = resize_shortest_edge(pixels, point.resolution, self._cfg.INPUT.MAX_SIZE_TEST)
        if order != self._cfg.INPUT.FORMAT:
            seen = seen.flip(0)  # here it is small
        return {"image": seen, "height": pixels.shape[0], "width": pixels.shape[1]}

    def _run(self, inputs: list[dict[str, Any]], point: OperatingPoint) -> list[dict[str, Any]]:
        # at() holds the lock on the model's width until the forward is through. The weights are
        # known to be those that were calibrated: to look at each again takes 0.4 ms.
        with self._calibrations.at(point, stale=True), torch.no_grad():
            return self._model(inputs)

    def _calibrated(self) -> str:
        return ", ".join(map(str, self.points)) or "none"


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


def _files(folder: Path) -> tuple[Path, Path, Path]:
    """Weights, config and query table; PredictorError says how to make one that is missing."""
    if not folder.is_dir():
        raise PredictorError(
            f"There is no folder {folder}. Give the OUTPUT_DIR of a training that was evaluated."
        )
    config, weights = folder / CONFIG, folder / WEIGHTS
    if not config.is_file():
        raise PredictorError(
            f"{folder} has no {CONFIG}, which tools/train_net.py writes to OUTPUT_DIR when it "
            "begins."
        )
    if not weights.is_file():
        raise PredictorError(
            f"{folder} has no {WEIGHTS}, which ends a training: tools/train_net.py --config-file "
            f"{config} --resume goes on with one."
        )
    for name in TABLES:
        if (folder / name).is_file():
            return weights, config, folder / name
    raise PredictorError(
        f"{folder} has neither {' nor '.join(TABLES)}, which an evaluation writes: "
        f"tools/eval_grid.py --config-file {config} MODEL.WEIGHTS {weights} OUTPUT_DIR {folder}."
    )


def _check_device(device: str | torch.device, what: str) -> None:
    """PredictorError unless something can be computed on ``device`` and read from it."""
    try:
        torch.zeros(1, device=device).item()
    # Backends that are absent fail in any way there is.
    except Exception as error:
        usable = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise PredictorError(
            f"{what} {str(device)!r} cannot be used here; expected one such as "
            f"{', '.join(map(repr, usable))}."
        ) from error

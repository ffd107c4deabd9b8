"""
Calibration: normalisation statistics of operating points, kept beside the model.

A calibration belongs to the weights it was made with and is refused once they have changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from .norm import SlimmableBatchNorm2d, UncalibratedError
from .point import OperatingPoint
from .versions import Version
from .width import Statistics, at_width, width_of

# Detectron2's own one for several processes is a BatchNorm2d.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

__all__ = [
    "Calibrations",
    "NoDataError",
    "SingleValueError",
    "StaleCalibrationError",
    "UncalibratedError",
    "fingerprint",
]


class StaleCalibrationError(RuntimeError):
    """The weights are not those the calibration was made with."""


class NoDataError(RuntimeError):
    """Batches that have not reached every normalisation layer."""


class SingleValueError(ValueError):
    """A batch gives a normalisation layer one value per channel, which has no variance."""


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of the model's parameters, as 64 hex digits."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        value = parameter.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Recorder:
    """
    Cumulative average of per-batch statistics: the mean, and the unbiased variance, of batch t
    enter with momentum 1/(t+1), t from 0 (the post-statistics of the public slimmable code).

    Every batch counts the same, whatever it holds. Weights by the number of images would do it no
    better: a norm in an ROI head sees as many objects as were found, one elsewhere the padding too.
    Whoever makes the batches makes them of like size.

    Args:
        names: of the norm layers.
    """

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.statistics: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._names = names
        self._batches: dict[nn.Module, int] = {}

    def __call__(self, norm: nn.Module, x: Tensor) -> None:
        if x.numel() == x.shape[1]:
            raise SingleValueError(
                f"{self._names[norm]} sees an input {tuple(x.shape)} in a batch: one value per "
                "channel, which has no variance."
            )
        variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3))
        batch = self._batches.get(norm, 0)
        if batch > 0:
            old_mean, old_variance = self.statistics[norm]
            mean = old_mean.lerp(mean, 1 / (batch + 1))
            variance = old_variance.lerp(variance, 1 / (batch + 1))
        self.statistics[norm] = (mean, variance)
        self._batches[norm] = batch + 1


class Calibrations:
    """
    The calibrated operating points of one model.

    Args:
        model: a module with slimmable layers. ValueError if it also has ordinary batch
            normalisation, whose statistics would be wrong at every point but one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._norms: dict[str, SlimmableBatchNorm2d] = {}
        for name, module in model.named_modules():
            if isinstance(module, SlimmableBatchNorm2d):
                self._norms[name] = module
            elif isinstance(module, BATCH_NORMS):
                raise ValueError(
                    f"{name} is a {type(module).__name__}: its statistics do not transfer between "
                    "operating points and it cannot be calibrated. Use SlimmableBatchNorm2d, group "
                    "normalisation or frozen batch normalisation there."
                )
        # Where parameters stand: walking the modules at every switch would cost more than the rest
        # of it, and a parameter may be replaced by another, though never by None.
        self._places = [
            (module._parameters, name)
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._points: dict[OperatingPoint, Statistics] = {}
        self._fingerprint = ""  # of what it is known of alone
        self._versions: list[Version] = []

    def __contains__(self, point: object) -> bool:
        if self.has_statistics or not isinstance(point, OperatingPoint):
            return point in self._points
        width = width_of(self.model)
        return width.minimum <= point.width <= width.maximum

    def __iter__(self) -> Iterator[OperatingPoint]:
        return iter(self._points)

    def __len__(self) -> int:
        return len(self._points)

    @property
    def has_statistics(self) -> bool:
        """True if the model has any. Without, it runs at every point of its widths as it is."""
        return bool(self._norms)

    def fingerprint(self) -> str:
        """The fingerprint of the model's weights as they are now."""
        parameters = [cast(Tensor, owner[name]) for owner, name in self._places]
        if not self._versions or not all(map(Version.is_of, self._versions, parameters)):
            fresh = fingerprint(self.model)
            if self.has_statistics and self._points and fresh != self._fingerprint:
                raise StaleCalibrationError(
                    f"The weights have changed since {len(self._points)} operating points were "
                    "calibrated. Call clear() and calibrate again."
                )
            self._fingerprint = fresh
            self._versions = [Version(parameter) for parameter in parameters]
            # The same weights at another address: the model may have moved to another device.
            self._points = {
                point: {norm: _beside(norm, stats[norm]) for norm in self._norms.values()}
                for point, stats in self._points.items()
            }
        return self._fingerprint

    def clear(self) -> None:
        """Forget every point, as after the weights have changed."""
        self._points.clear()
        self._fingerprint = ""
        self._versions = []

    @torch.no_grad()
    def calibrate(
        self,
        point: OperatingPoint,
        batches: Iterable[Any],
        forward: Callable[[Any], Any] | None = None,
    ) -> None:
        """
        Recompute all statistics at ``point``.

        Args:
            batches: inputs at the point's resolution; at least one, if there are statistics. Each
                counts the same in the average, so they should be of like size.
            forward: runs the model on one of them; the model itself by default. Every norm layer
                must see data.

        Raises:
            SingleValueError: naming the layer, for a batch of one image whose map is 1 x 1 there.
            NoDataError: naming the first layer that saw no data.
        """
        self.fingerprint()
        recorder = _Recorder({norm: name for name, norm in self._norms.items()})
        shared = width_of(self.model).shared
        with at_width(self.model, point.width):
            shared.recorder = recorder
            try:
                for batch in batches:
                    (forward or self.model)(batch)
            finally:
                shared.recorder = None
        missed = [name for name, norm in self._norms.items() if norm not in recorder.statistics]
        if missed:
            raise NoDataError(
                f"Calibrating {point}: {len(missed)} of {len(self._norms)} normalisation layers "
                f"saw no data, {missed[0]} first. Give it at least one batch that reaches them all."
            )
        self._points[point] = recorder.statistics

    @contextmanager
    def at(self, point: OperatingPoint, *, stale: bool = False) -> Iterator[None]:
        """
        Run the model at ``point``: its width, normalised by its statistics.

        Args:
            stale: accept weights that have moved on. Training on frozen statistics does, between
                two refreshes.

        Raises:
            UncalibratedError: naming the point, if it is not calibrated.
            StaleCalibrationError: if the weights have changed since.
            ValueError: for a width outside the model's range, where there are no statistics.
        """
        if self.has_statistics and point not in self._points:
            known = ", ".join(str(p) for p in sorted(self._points)) or "none"
            raise UncalibratedError(
                f"Operating point {point} is not calibrated. Calibrated points: {known}."
            )
        if not stale:
            self.fingerprint()
        with at_width(self.model, point.width, statistics=self._points.get(point)):
            yield

    @torch.no_grad()
    def copy_to_running(self, point: OperatingPoint) -> None:
        """Make the statistics of ``point``, of full width, the model's running ones."""
        for norm in self._norms.values():
            mean, variance = self._points[point][norm]
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)

    def state_dict(self) -> dict[str, Any]:
        """
        Plain dicts and tensors: ``{"fingerprint": str, "points": {"0.50x360": {name: [mean,
        variance]}}}``, where name is a norm layer's.
        """
        return {
            "fingerprint": self._fingerprint,
            "points": {
                str(point): {
                    name: [each.cpu() for each in stats[norm]] for name, norm in self._norms.items()
                }
                for point, stats in self._points.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any], *, stale: bool = False) -> None:
        """
        Take over a saved :meth:`state_dict`; points of the same name are replaced.

        Args:
            stale: accept statistics of other weights, for :meth:`at` with ``stale``; they replace
                all points.

        Raises:
            StaleCalibrationError: if it was made with other weights.
            ValueError: if its layers are not this model's.
        """
        if not state["points"]:
            return
        if not stale and state["fingerprint"] != self.fingerprint():
            raise StaleCalibrationError(
                f"The calibration was made with other weights (fingerprint "
                f"{state['fingerprint'][:12]}, the model has {self._fingerprint[:12]})."
            )
        points: dict[OperatingPoint, Statistics] = {}
        for name, saved in state["points"].items():
            if saved.keys() != self._norms.keys():
                first = sorted(saved.keys() ^ self._norms.keys())[0]
                raise ValueError(
                    f"The calibration of {name} is of another architecture: {first} stands in only "
                    "one of the two."
                )
            points[OperatingPoint.parse(name)] = {
                norm: _beside(norm, saved[layer]) for layer, norm in self._norms.items()
            }
        if stale:
            # They keep the fingerprint they came with, so that at() without ``stale`` refuses them.
            self._points, self._fingerprint, self._versions = points, state["fingerprint"], []
        else:
            self._points |= points


def _beside(norm: SlimmableBatchNorm2d, statistics: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance on the device of the norm they belong to."""
    mean, variance = statistics
    device = norm.weight.device
    return mean.to(device), variance.to(device)

"""Losses of a training step: one by one for the processes to average, by kind for the metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .sampling import TrainingPass


class StepLosses:
    """Losses of the passes of one step: L of them in all, in the order they come in."""

    def __init__(self) -> None:
        self._sources: list[tuple[TrainingPass, str]] = []
        self._values: list[Tensor] = []

    def add(self, training_pass: TrainingPass, losses: dict[str, Tensor]) -> None:
        """Add the losses of a pass, by name."""
        for name, value in losses.items():
            self._sources.append((training_pass, name))
            self._values.append(value.detach().float())

    def values(self) -> Tensor:
        """Stack them: (L,), float32."""
        return torch.stack(self._values)

    def problem(self, means: Sequence[float]) -> str:
        """
        Say which loss is not finite, and where; empty if all are finite.

        Args:
            means: (L,), of :meth:`values` over the processes.
        """
        for (training_pass, name), value in zip(self._sources, means, strict=True):
            if not math.isfinite(value):
                return f"{name} is {value} at {training_pass}"
        return ""

    def metrics(self, means: Sequence[float]) -> dict[str, float]:
        """
        Average each loss over the passes of a kind, as ``<kind>/<name>``.

        Their sum is ``<kind>/total_loss``.

        Args:
            means: (L,), of :meth:`values` over the processes.
        """
        groups: dict[str, dict[str, list[float]]] = {}
        for (training_pass, name), value in zip(self._sources, means, strict=True):
            groups.setdefault(training_pass.kind, {}).setdefault(name, []).append(value)
        metrics = {}
        for kind, losses in groups.items():
            averages = {name: sum(values) / len(values) for name, values in losses.items()}
            metrics |= {f"{kind}/{name}": value for name, value in averages.items()}
            metrics[f"{kind}/total_loss"] = sum(averages.values())
        return metrics

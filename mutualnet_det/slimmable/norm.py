"""
Batch normalisation over a slimmable dimension.

All widths share scale and shift. Statistics do not transfer between operating points, so the layer
keeps one running pair, for the full network, and takes every other point's from a calibration.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..compat import in_backward
from .channels import Channels
from .joint import joint_batch_norm
from .layers import SlimmableLayer, copy_into
from .width import Width, width_of


class UncalibratedError(RuntimeError):
    """A sub-network is evaluated without statistics of its own."""


class SlimmableNorm(SlimmableLayer):
    """The base of slimmable norms: scale and shift of the first channels of ``dim``."""

    dim: Channels
    weight: nn.Parameter
    bias: nn.Parameter

    def _affine(self) -> tuple[Tensor, Tensor]:
        if self.width.is_full:
            return self.weight, self.bias
        count = self.dim.at(self.width.value)
        return self._slice("weight", count), self._slice("bias", count)


class SlimmableBatchNorm2d(SlimmableNorm, nn.BatchNorm2d):
    """
    :class:`torch.nn.BatchNorm2d` over the first channels. Input and output (N, C, H, W).

    What it normalises by, in this order: the statistics in force (see
    :class:`~mutualnet_det.slimmable.Calibrations`), in training mode the batch's own, in evaluation
    mode at full width the running ones; else UncalibratedError. Only passes of the full network
    update the running ones, and once, however often activations are recomputed. An input without
    elements passes unchanged. After :func:`share_statistics`, "the batch" is that of all processes.
    """

    # torch has None for each, for norms without running statistics: there are none such here.
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(
        self,
        channels: Channels,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        width: Width | None = None,
    ) -> None:
        width = Width() if width is None else width
        super().__init__(channels.at(width.maximum), eps, momentum)
        self.dim = channels
        self._slim(width)

    def _batch_norm(
        self, x: Tensor, mean: Tensor | None, variance: Tensor | None, batch: bool
    ) -> Tensor:
        weight, bias = self._affine()
        return F.batch_norm(x, mean, variance, weight, bias, batch, self.momentum, self.eps)

    def _joint(self, x: Tensor) -> Tensor:
        y, mean, variance, count = joint_batch_norm(x, *self._affine(), self.eps)
        if self._tracks() and not in_backward():
            momentum = (self.momentum * (count > 0)).to(mean)  # all inputs may be empty
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance, momentum)
            self.num_batches_tracked += 1
        return y

    def _tracks(self) -> bool:
        return self.width.shared.tracks and self.width.is_full

    def forward(self, x: Tensor) -> Tensor:
        shared = self.width.shared
        if shared.joint and self.training and shared.recorder is None is shared.statistics:
            return self._joint(x)
        if x.numel() == 0:
            return x
        if shared.recorder is not None:
            shared.recorder(self, x)
            return self._batch_norm(x, None, None, batch=True)
        if shared.statistics is not None:
            return self._batch_norm(x, *shared.statistics[self], batch=False)
        if self.training and not self._tracks():
            return self._batch_norm(x, None, None, batch=True)
        if self.training and in_backward():
            # Copies: as many tensors as the first time, which updated what they are copies of.
            mean, variance = self.running_mean.clone(), self.running_var.clone()
            return self._batch_norm(x, mean, variance, batch=True)
        if self.training or self.width.is_full:
            return nn.BatchNorm2d.forward(self, x)
        raise UncalibratedError(
            f"Width {self.width.value:g} has no statistics: running statistics are the full "
            "network's. Calibrate the operating point and run inside Calibrations.at(point)."
        )

    def plain(self) -> nn.BatchNorm2d:
        weight, bias = self._affine()
        statistics = self.width.shared.statistics
        if statistics is None and not self.width.is_full:
            raise UncalibratedError(f"Width {self.width.value:g} has no statistics to slice.")
        mean, variance = statistics[self] if statistics else (self.running_mean, self.running_var)
        norm = nn.BatchNorm2d(weight.shape[0], self.eps, self.momentum).to(weight)
        return copy_into(
            norm,
            weight=weight,
            bias=bias,
            running_mean=mean,
            running_var=variance,
            num_batches_tracked=self.num_batches_tracked,
        )


def share_statistics(model: nn.Module) -> None:
    """
    Let the batch statistics of ``model`` be those of all processes' batches from now on.

    All of them must then run it in training mode at the same widths in the same order. A copy of
    the model is as before.
    """
    width_of(model).shared.joint = True

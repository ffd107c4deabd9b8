"""Batch normalisation by the statistics of all processes' batches together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def joint_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """
    Normalise this process's part as one that saw all inputs would, gradients included.

    Every process must call it, and its backward, as often as the others: with an input without
    elements too.

    Args:
        x: (N, C, H, W); N, H and W may differ between processes, and be 0.
        weight, bias: (C,).

    Returns:
        the normalised input; and of all inputs the mean and the unbiased variance (C,) and how many
        values there are per channel (), without gradients.
    """
    y, mean, variance, count = _JointBatchNorm.apply(x, weight, bias, eps)
    return y, mean, variance, count


class _JointBatchNorm(torch.autograd.Function):
    """
    Batch normalisation with one reduction in each direction.

    Each process computes mean and variance about its own mean; these become sums of values and of
    squares in float64. Nothing that float32 can tell apart is lost, so this is as stable as
    combining means and squared deviations (Chan, Golub & LeVeque, 1979), and sums can be reduced.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels, count = x.shape[1], x.numel() // x.shape[1]
        sums = torch.zeros(2, channels, dtype=torch.float64, device=x.device)
        if count:
            # A CPU would round the statistics of half precision to half precision.
            exact = x if x.is_cuda else x.to(torch.promote_types(x.dtype, torch.float32))
            # Of all that computes them, the fastest on CPUs too; the variance is the biased one.
            sums[:] = torch.stack(torch.batch_norm_update_stats(exact, None, None, 0.0))
            sums[1] += sums[0] ** 2
        packed = torch.cat((sums.flatten(), sums.new_ones(1))) * count
        dist.all_reduce(packed)
        total = packed[-1]
        mean, square = (packed[:-1] / total.clamp(min=1)).view(2, channels)
        variance = (square - mean**2).clamp_(min=0)
        unbiased = variance * (total / (total - 1).clamp(min=1))
        # Under autocast, the statistics are of the weight's type, not of the input's.
        mean, variance, unbiased = (each.to(weight) for each in (mean, variance, unbiased))
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, unbiased, total)
        y = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps) if count else x.clone()
        return y, mean, unbiased, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, variance, total = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        scale = (variance + ctx.eps).rsqrt()
        if count:
            dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
                dy, x, weight, None, None, mean, scale, True, ctx.eps, [True, True, True]
            )
        else:
            dx, dweight, dbias = dy, torch.zeros_like(weight), torch.zeros_like(weight)
        here = torch.stack((dweight, dbias))
        everywhere = here.clone()
        dist.all_reduce(everywhere)
        if count and ctx.needs_input_grad[0]:
            # It is the input's gradient as if the statistics came from here alone.
            by_x, by_mean = weight * scale * (here / count - everywhere / total.to(weight))
            dx = dx + F.batch_norm(x, mean, variance, by_x, by_mean, False, 0.0, ctx.eps)
        return dx, dweight, dbias, None

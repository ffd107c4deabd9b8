"""
Convolutions and linear layers that run on the first channels of their weights.

A layer is its plain torch counterpart at full width, with the same state dict; below that it uses
the leading slice of each dimension. Weights have the layer's own torch layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .channels import Channels
from .versions import Version
from .width import Width

if TYPE_CHECKING:
    from typing_extensions import Self

Plain = TypeVar("Plain", bound=nn.Module)


def leading(counts: tuple[int, ...]) -> tuple[slice, ...]:
    """The index of the first ``counts`` of each dimension."""
    return tuple(slice(count) for count in counts)


def layout(parameter: Tensor) -> torch.memory_format:
    """Channels-last for a weight that is stored so, else contiguous."""
    if parameter.is_contiguous() or parameter.dim() != 4:
        return torch.contiguous_format
    return torch.channels_last


class SliceCache:
    """
    Contiguous slices of a layer's parameters, for passes without gradients.

    A slice is used as long as its parameter has the version it was cut from: an optimiser step, a
    load or a cast makes a new one. Copies of a layer start with an empty cache.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, tuple[int, ...]], tuple[Version, Tensor]] = {}

    def get(self, name: str, parameter: Tensor, counts: tuple[int, ...]) -> Tensor:
        """The leading ``counts`` of ``parameter``, contiguous."""
        key = (name, counts)
        entry = self._entries.get(key)
        if entry is None or not entry[0].is_of(parameter):
            piece = parameter.detach()[leading(counts)].contiguous(memory_format=layout(parameter))
            entry = self._entries[key] = (Version(parameter), piece)
        return entry[1]

    def clear(self) -> None:
        self._entries.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> SliceCache:
        return SliceCache()

    def __reduce__(self) -> tuple[type[SliceCache], tuple[()]]:
        return (SliceCache, ())


class SlimmableLayer(nn.Module):
    """
    The base of slimmable layers.

    Subclasses also derive from their torch counterpart, set :attr:`width`, and say in
    :meth:`plain` what layer they are at the width in force.
    """

    width: Width
    # Whether slices are made contiguous: else a convolution does so, in forward and in backward.
    packs: bool = True

    def _slim(self, width: Width | None) -> None:
        self.width = Width() if width is None else width
        self._slices = SliceCache()

    def _slice(self, name: str, *counts: int) -> Tensor:
        """The leading ``counts`` of a parameter: with gradients, or a copy that is kept."""
        parameter = self._parameters[name]  # at every forward of every layer: not by getattr
        assert parameter is not None
        if torch.is_grad_enabled():
            return self._differentiable(parameter, counts)
        if not self.packs:
            return parameter[leading(counts)]
        return self._slices.get(name, parameter, counts)

    def _slice_bias(self, count: int) -> Tensor | None:
        return None if self._parameters["bias"] is None else self._slice("bias", count)

    def _differentiable(self, parameter: Tensor, counts: tuple[int, ...]) -> Tensor:
        leaves = self.width.shared.leaves
        if leaves is None or not parameter.requires_grad:
            return self._packed(parameter, counts)
        key = (id(parameter), counts)
        if key not in leaves:
            piece = self._packed(parameter.detach(), counts)
            leaves[key] = (parameter, piece.requires_grad_())
        return leaves[key][1]

    def _packed(self, parameter: Tensor, counts: tuple[int, ...]) -> Tensor:
        piece = parameter[leading(counts)]
        return piece.contiguous(memory_format=layout(parameter)) if self.packs else piece

    def train(self, mode: bool = True) -> Self:
        # A write through ``parameter.data`` leaves no trace in its version; whoever does so while
        # training gets fresh slices when the model is next evaluated.
        self._slices.clear()
        return super().train(mode)

    def plain(self) -> nn.Module:
        """The plain torch layer this one is at the width in force, with copies of the weights."""
        raise NotImplementedError


def copy_into(plain: Plain, **tensors: Tensor | None) -> Plain:
    """``plain`` with these values for its parameters and buffers; None leaves one out."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            if tensor is not None:
                getattr(plain, name).copy_(tensor)
    return plain


class SlimmableConv2d(SlimmableLayer, nn.Conv2d):
    """
    A convolution whose input and output channels follow the width.

    Args:
        in_channels, out_channels: the dimensions.
        kernel_size, stride, padding, dilation, bias: as in :class:`torch.nn.Conv2d`.
        depthwise: one group per channel; needs equal dimensions.
        width: the handle to share; a new one of range (0.25, 1) by default.

    Input (N, Ci, H, W), output (N, Co, H', W'), where Ci and Co are the dimensions' channels at the
    width in force.
    """

    # As torch makes them of the arguments, typed for two dimensions.
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def __init__(
        self,
        in_channels: Channels,
        out_channels: Channels,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        depthwise: bool = False,
        width: Width | None = None,
    ) -> None:
        if depthwise and in_channels != out_channels:
            raise ValueError(
                "A depthwise convolution needs equal input and output dimensions, got "
                f"{in_channels} and {out_channels}."
            )
        width = Width() if width is None else width
        full_in = in_channels.at(width.maximum)
        super().__init__(
            full_in,
            out_channels.at(width.maximum),
            kernel_size,
            stride,
            padding,
            dilation,
            groups=full_in if depthwise else 1,
            bias=bias,
        )
        self.in_dim, self.out_dim, self.depthwise = in_channels, out_channels, depthwise
        self._slim(width)

    def _active(self) -> tuple[Tensor, Tensor | None, int]:
        """Weight (Co, Ci or 1, Kh, Kw), bias (Co,) and groups at the width in force."""
        if self.width.is_full:
            return self.weight, self.bias, self.groups
        width = self.width.value
        count_out = self.out_dim.at(width)
        if self.depthwise:
            return self._slice("weight", count_out), self._slice_bias(count_out), count_out
        count_in = self.in_dim.at(width)
        return self._slice("weight", count_out, count_in), self._slice_bias(count_out), 1

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, groups = self._active()
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def plain(self) -> nn.Conv2d:
        weight, bias, groups = self._active()
        conv = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            groups,
            bias=bias is not None,
        ).to(weight)
        return copy_into(conv, weight=weight, bias=bias)


class SlimmableConvTranspose2d(SlimmableLayer, nn.ConvTranspose2d):
    """
    A transposed convolution whose input and output channels follow the width.

    Its weight is (Ci, Co, Kh, Kw), as in :class:`torch.nn.ConvTranspose2d`. Input (N, Ci, H, W),
    output (N, Co, H', W').
    """

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __init__(
        self,
        in_channels: Channels,
        out_channels: Channels,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        *,
        width: Width | None = None,
    ) -> None:
        width = Width() if width is None else width
        super().__init__(
            in_channels.at(width.maximum),
            out_channels.at(width.maximum),
            kernel_size,
            stride,
            padding,
            bias=bias,
        )
        self.in_dim, self.out_dim = in_channels, out_channels
        self._slim(width)

    def _active(self) -> tuple[Tensor, Tensor | None]:
        if self.width.is_full:
            return self.weight, self.bias
        width = self.width.value
        count_in, count_out = self.in_dim.at(width), self.out_dim.at(width)
        return self._slice("weight", count_in, count_out), self._slice_bias(count_out)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # no output_size
        weight, bias = self._active()
        return F.conv_transpose2d(x, weight, bias, self.stride, self.padding)

    def plain(self) -> nn.ConvTranspose2d:
        weight, bias = self._active()
        conv = nn.ConvTranspose2d(
            weight.shape[0],
            weight.shape[1],
            self.kernel_size,
            self.stride,
            self.padding,
            bias=bias is not None,
        ).to(weight)
        return copy_into(conv, weight=weight, bias=bias)


class SlimmableLinear(SlimmableLayer, nn.Linear):
    """
    A linear layer whose input and output features follow the width.

    Behind a flattened (C, 7, 7) map the input dimension is ``Channels(C * 49, ratio=49)``: the map
    is flattened channel by channel, so its first channels are the first features. Input (..., Ci),
    output (..., Co).
    """

    # Matrix products take rows with gaps at full speed, and the box head's first layer is as large
    # as the rest of a detector together.
    packs = False

    def __init__(
        self,
        in_features: Channels,
        out_features: Channels,
        bias: bool = True,
        *,
        width: Width | None = None,
    ) -> None:
        width = Width() if width is None else width
        super().__init__(in_features.at(width.maximum), out_features.at(width.maximum), bias)
        self.in_dim, self.out_dim = in_features, out_features
        self._slim(width)

    def _active(self) -> tuple[Tensor, Tensor | None]:
        if self.width.is_full:
            return self.weight, self.bias
        width = self.width.value
        count_in, count_out = self.in_dim.at(width), self.out_dim.at(width)
        return self._slice("weight", count_out, count_in), self._slice_bias(count_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self._active())

    def plain(self) -> nn.Linear:
        weight, bias = self._active()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None).to(weight)
        return copy_into(linear, weight=weight, bias=bias)

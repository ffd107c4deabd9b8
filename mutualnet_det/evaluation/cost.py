"""
The cost of a detector at an operating point: multiply-adds and active parameters, part by part.

Counted are the multiply-adds of convolutions, linear layers and matrix products, and nothing else,
so that the figures compare with published ones.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import StandardROIHeads
from detectron2.structures import ImageList
from fvcore.nn import FlopCountAnalysis
from fvcore.nn import jit_handles as handles
from torch import Tensor, nn

from ..data.views import resized_shape
from ..slimmable import OperatingPoint, SlimmableLayer, sliced, width_of

DENSE_PARTS = ("backbone", "neck", "rpn")
PARTS = (*DENSE_PARTS, "box_head", "mask_head")

Size = tuple[int, int]

_COUNTED = {
    "aten::_convolution": handles.conv_flop_jit,
    "aten::linear": handles.linear_flop_jit,
    "aten::addmm": handles.addmm_flop_jit,
    "aten::mm": handles.matmul_flop_jit,
    "aten::matmul": handles.matmul_flop_jit,
    "aten::bmm": handles.bmm_flop_jit,
    "aten::einsum": handles.einsum_flop_jit,
}


@dataclass(frozen=True)
class Cost:
    """
    What one image costs, in units of 1e9 multiply-adds (GFLOPs), and the active parameters.

    Attributes:
        gflops: by part, without the mask head; mean over the images counted.
        mask_head_gflops_per_detection: 0 for a model without a mask head.
        num_proposals: the number of proposals that the box head is counted for.
        parameters: active parameters by part.
    """

    gflops: dict[str, float]
    mask_head_gflops_per_detection: float
    num_proposals: int
    parameters: dict[str, int]

    def by_part(self, detections_per_image: float) -> dict[str, float]:
        """GFLOPs of every part, the mask head run on ``detections_per_image`` detections."""
        mask_head = self.mask_head_gflops_per_detection * detections_per_image
        return {**self.gflops, "mask_head": mask_head}

    def total(self, detections_per_image: float) -> float:
        """GFLOPs of one image with ``detections_per_image`` detections."""
        return sum(self.by_part(detections_per_image).values())

    def __str__(self) -> str:
        lines = [f"{'part':<28} {'GFLOPs':>10} {'parameters':>12}"]
        rows = {**self.gflops, "mask_head": self.mask_head_gflops_per_detection}
        notes = {
            "box_head": f"box_head, {self.num_proposals} proposals",
            "mask_head": "mask_head, per detection",
        }
        for part, gflops in rows.items():
            lines.append(
                f"{notes.get(part, part):<28} {gflops:>10.4f} {self.parameters[part]:>12,}"
            )
        lines.append(
            f"{'total without mask_head':<28} {self.total(0):>10.4f} "
            f"{sum(self.parameters.values()) - self.parameters['mask_head']:>12,}"
        )
        return "\n".join(lines)


def padded_sizes(
    image_sizes: Sequence[Size], resolution: int, max_size: int, backbone: nn.Module
) -> list[Size]:
    """
    The (height, width) in px that images reach ``backbone`` with, each one in a batch of its own.

    Args:
        image_sizes: (height, width) of the images as they are on disk.
        resolution: the short side they are resized to.
        max_size: the most that the long side may have.
    """

    @functools.cache
    def padded(size: Size) -> Size:
        resized = resized_shape(*size, resolution, max_size)
        image = torch.empty(3, *resized, device="meta")
        batch = ImageList.from_tensors(
            [image],
            backbone.size_divisibility,
            padding_constraints=backbone.padding_constraints,
        )
        return tuple(batch.tensor.shape[-2:])

    return [padded((height, width)) for height, width in image_sizes]


def count_cost(model: nn.Module, sizes: Sequence[Size], num_proposals: int) -> Cost:
    """The cost of ``model`` at the width in force; see :class:`CostCounter`."""
    return CostCounter(model).count(sizes, num_proposals)


class CostCounter:
    """
    Counts a Detectron2 GeneralizedRCNN with StandardROIHeads, at the width in force when this is
    made, for any image sizes afterwards.

    The model itself is not touched. Normalisation statistics do not matter: the width need not be
    calibrated. What stands behind ``backbone.bottom_up`` is the neck.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        heads = model.roi_heads
        if not isinstance(heads, StandardROIHeads) or heads.keypoint_on:
            raise ValueError(
                "A cost is counted for Detectron2's StandardROIHeads with a box and a mask head, "
                f"got {type(heads).__name__}"
                f"{' with keypoints' if getattr(heads, 'keypoint_on', False) else ''}."
            )
        plain = _plain_copy(model)
        self._dense = _DenseCounter(plain)
        self._box_head, self._mask_head = _count_roi_heads(plain)
        self._parameters = _count_parameters(plain)

    @torch.no_grad()
    def count(self, sizes: Sequence[Size], num_proposals: int) -> Cost:
        """
        Args:
            sizes: padded (height, width) of each image, see :func:`padded_sizes`; the cost is
                their mean.
            num_proposals: how many proposals reach the box head.
        """
        if not sizes:
            raise ValueError("sizes is empty: a cost needs at least one image size.")
        sums = dict.fromkeys(DENSE_PARTS, 0)
        for size, images in Counter(sizes).items():
            for part, count in zip(DENSE_PARTS, self._dense.count(size), strict=True):
                sums[part] += count * images
        gflops = {part: total / len(sizes) / 1e9 for part, total in sums.items()}
        gflops["box_head"] = self._box_head * num_proposals / 1e9
        return Cost(gflops, self._mask_head / 1e9, num_proposals, self._parameters)


def count_points(
    cfg: CfgNode,
    model: nn.Module,
    points: Sequence[OperatingPoint],
    image_sizes: Sequence[Size],
    at: Callable[[OperatingPoint], AbstractContextManager],
) -> dict[OperatingPoint, Cost]:
    """
    The cost of ``model`` at every one of ``points``, each width counted once.

    Args:
        image_sizes: (height, width) of the images in px, before they are resized.
        at: switches the model to a point, as a context.
    """
    sizes = {
        resolution: padded_sizes(image_sizes, resolution, cfg.INPUT.MAX_SIZE_TEST, model.backbone)
        for resolution in {point.resolution for point in points}
    }
    counters: dict[float, CostCounter] = {}
    costs = {}
    for point in points:
        if point.width not in counters:
            with at(point):
                counters[point.width] = CostCounter(model)
        costs[point] = counters[point.width].count(
            sizes[point.resolution], cfg.MODEL.RPN.POST_NMS_TOPK_TEST
        )
    return costs


class _AnyStatistics:
    """Stands in for the statistics of a calibration where only channel counts matter."""

    def __getitem__(self, norm: nn.Module) -> tuple[Tensor, Tensor]:
        channels = norm.dim.at(norm.width.value)
        return torch.zeros(channels), torch.ones(channels)


def _plain_copy(model: nn.Module) -> nn.Module:
    if not any(isinstance(module, SlimmableLayer) for module in model.modules()):
        return copy.deepcopy(model).cpu().eval()
    shared = width_of(model).shared
    statistics = shared.statistics
    shared.statistics = _AnyStatistics()
    try:
        return sliced(model).cpu().eval()
    finally:
        shared.statistics = statistics


def _multiply_adds(module: nn.Module, *inputs: Tensor) -> Counter[str]:
    """By name of submodule, "" for the whole."""
    analysis = FlopCountAnalysis(module, inputs).clear_op_handles().set_op_handle(**_COUNTED)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return analysis.tracer_warnings("none").by_module()


class _DenseNetwork(nn.Module):
    """What runs on every image whatever is in it: backbone, neck and the RPN's head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.rpn_head = model.proposal_generator.rpn_head
        self.in_features = model.proposal_generator.in_features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(images)
        logits, deltas = self.rpn_head([features[name] for name in self.in_features])
        return (*logits, *deltas)


class _DenseCounter:
    """
    Multiply-adds of the dense parts at any padded size, from four small traces.

    Sizes are multiples of the backbone's size divisibility D, so a map of stride s up to D has
    exactly h/s rows, and one of stride 2D or 4D (the extra pyramid levels) ceil(h/s). A count is
    then exactly

        a * h/D * w/D + b * ceil(h/2D) * ceil(w/2D) + c * ceil(h/4D) * ceil(w/4D)

    with a, b, c from traces at D, 2D and 4D. A fourth trace, of another shape, must agree to the
    last multiply-add; for a backbone where it does not, every size is traced itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self._network = _DenseNetwork(model)
        self._divisor = model.backbone.size_divisibility
        self._traced: dict[Size, tuple[int, ...]] = {}
        self._coefficients = self._solve() if self._divisor > 1 else None

    def count(self, size: Size) -> tuple[int, ...]:
        """Multiply-adds of one image of padded ``size``, in the order of DENSE_PARTS."""
        if self._coefficients is None or any(side % self._divisor for side in size):
            return self._trace(size)
        return self._evaluate(self._coefficients, size)

    def _trace(self, size: Size) -> tuple[int, ...]:
        if size not in self._traced:
            self._traced[size] = self._count_parts(size)
        return self._traced[size]

    def _count_parts(self, size: Size) -> tuple[int, ...]:
        counts = _multiply_adds(self._network, torch.zeros(1, 3, *size))
        backbone = counts["backbone"]
        if hasattr(self._network.backbone, "bottom_up"):
            backbone = counts["backbone.bottom_up"]
        return backbone, counts["backbone"] - backbone, counts["rpn_head"]

    def _solve(self):
        d = self._divisor
        coefficients = []
        for one, two, four in zip(*(self._trace((k * d, k * d)) for k in (1, 2, 4)), strict=True):
            a = (two - one) / 3
            b = (four - two) / 3 - 4 * a
            coefficients.append((a, b, one - a - b))
        other = (3 * d, 5 * d)
        return coefficients if self._evaluate(coefficients, other) == self._trace(other) else None

    def _evaluate(self, coefficients, size: Size) -> tuple[int, ...]:
        areas = []
        for stride in (self._divisor, 2 * self._divisor, 4 * self._divisor):
            height, width = (-(-side // stride) for side in size)
            areas.append(height * width)
        return tuple(
            round(sum(c * area for c, area in zip(part, areas, strict=True)))
            for part in coefficients
        )


def _count_roi_heads(model: nn.Module) -> tuple[int, int]:
    """Multiply-adds of the box head per proposal and of the mask head per detection."""
    heads = model.roi_heads
    smallest = max(model.backbone.size_divisibility, 64)
    features = model.backbone(torch.zeros(1, 3, smallest, smallest))

    def one_roi(names: Sequence[str], pooler: nn.Module) -> Tensor:
        return torch.zeros(1, features[names[0]].shape[1], *pooler.output_size)

    roi = one_roi(heads.box_in_features, heads.box_pooler)
    box_head = 0
    for head, predictor in zip(_stages(heads.box_head), _stages(heads.box_predictor), strict=True):
        box_head += _multiply_adds(nn.Sequential(head, predictor), roi)[""]
    if not heads.mask_on:
        return box_head, 0
    # The layers alone: forward goes on to paste the result into detections.
    roi = one_roi(heads.mask_in_features, heads.mask_pooler)
    return box_head, _multiply_adds(_MaskLayers(heads.mask_head), roi)[""]


class _MaskLayers(nn.Module):
    def __init__(self, mask_head: nn.Module) -> None:
        super().__init__()
        self.mask_head = mask_head

    def forward(self, rois: Tensor) -> Tensor:
        return self.mask_head.layers(rois)


def _stages(head: nn.Module) -> Sequence[nn.Module]:
    """A cascade has a list of heads, which all see every proposal."""
    return head if isinstance(head, nn.ModuleList) else [head]


def _count_parameters(model: nn.Module) -> dict[str, int]:
    neck = "neck" if hasattr(model.backbone, "bottom_up") else "backbone"
    prefixes = {
        "backbone.bottom_up.": "backbone",
        "backbone.": neck,
        "proposal_generator.": "rpn",
        "roi_heads.box_": "box_head",
        "roi_heads.mask_": "mask_head",
    }
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        part = next((part for prefix, part in prefixes.items() if name.startswith(prefix)), None)
        if part is not None:
            counts[part] += parameter.numel()
    return counts

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
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    GeneralizedRCNN,
    PanopticFPN,
    SemanticSegmentor,
    StandardROIHeads,
)
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import ImageList
from fvcore.nn import FlopCountAnalysis
from fvcore.nn import jit_handles as handles
from torch import Tensor, nn

from ..data.views import resized_shape
from ..slimmable import OperatingPoint, SlimmableLayer, sliced, width_of

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
    Cost of one image, in units of 1e9 multiply-adds (GFLOPs), and the active parameters.

    Attributes:
        gflops: by part, of what runs on every image; mean over the images counted.
        gflops_per_detection: by part, of what runs on every detection: the mask head.
        num_proposals: the number of proposals that the box head is counted for.
        parameters: active parameters by part.
    """

    gflops: dict[str, float]
    gflops_per_detection: dict[str, float]
    num_proposals: int
    parameters: dict[str, int]

    def by_part(self, detections_per_image: float) -> dict[str, float]:
        """GFLOPs of every part, with ``detections_per_image`` detections."""
        each = self.gflops_per_detection.items()
        return self.gflops | {part: gflops * detections_per_image for part, gflops in each}

    def total(self, detections_per_image: float) -> float:
        """GFLOPs of one image with ``detections_per_image`` detections."""
        return sum(self.by_part(detections_per_image).values())

    def of_proposals(self, detections_per_image: float) -> float:
        """GFLOPs of what runs on each proposal or detection, not on whole images."""
        parts = {"box_head", *self.gflops_per_detection}
        return sum(g for part, g in self.by_part(detections_per_image).items() if part in parts)

    def __str__(self) -> str:
        lines = [f"{'part':<28} {'GFLOPs':>10} {'parameters':>12}"]
        notes = {"box_head": f"box_head, {self.num_proposals} proposals"}
        notes |= {part: f"{part}, per detection" for part in self.gflops_per_detection}
        for part, gflops in (self.gflops | self.gflops_per_detection).items():
            lines.append(
                f"{notes.get(part, part):<28} {gflops:>10.4f} {self.parameters[part]:>12,}"
            )
        extra = self.gflops_per_detection
        parameters = sum(n for part, n in self.parameters.items() if part not in extra)
        name = f"total without {', '.join(extra)}" if extra else "total"
        lines.append(f"{name:<28} {self.total(0):>10.4f} {parameters:>12,}")
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
        return padded_size(resized_shape(*size, resolution, max_size), backbone)

    return [padded((height, width)) for height, width in image_sizes]


def padded_size(size: Size, backbone: nn.Module) -> Size:
    """The (height, width) in px that an image of a size reaches ``backbone`` with, if alone."""
    batch = ImageList.from_tensors(
        [torch.empty(3, *size, device="meta")],
        backbone.size_divisibility,
        padding_constraints=backbone.padding_constraints,
    )
    return tuple(batch.tensor.shape[-2:])


def count_cost(model: nn.Module, sizes: Sequence[Size], num_proposals: int) -> Cost:
    """The cost of ``model`` at the width in force; see :class:`CostCounter`."""
    return CostCounter(model).count(sizes, num_proposals)


class CostCounter:
    """
    Counts a Detectron2 GeneralizedRCNN with StandardROIHeads (a cascade, a Panoptic FPN too), a
    RetinaNet or a SemanticSegmentor, at the width in force when this is made, for any image sizes
    afterwards.

    The model itself is not touched. Normalisation statistics do not matter: the width need not be
    calibrated. What stands behind ``backbone.bottom_up`` is the neck.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module) -> None:
        heads = getattr(model, "roi_heads", None)
        if heads is not None and not isinstance(heads, StandardROIHeads):
            raise ValueError(
                f"A cost is counted for Detectron2's StandardROIHeads, got {type(heads).__name__}."
            )
        heads_on_maps(model)  # before anything is copied
        plain = plain_copy(model)
        self._dense = _DenseCounter(plain)
        self._roi = {} if heads is None else _count_roi_heads(plain)
        self._parameters = _count_parameters(plain, [*self._dense.parts, *self._roi])

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
        parts = self._dense.parts
        sums = dict.fromkeys(parts, 0)
        for size, images in Counter(sizes).items():
            for part, count in zip(parts, self._dense.count(size), strict=True):
                sums[part] += count * images
        gflops = {part: total / len(sizes) / 1e9 for part, total in sums.items()}
        if not self._roi:
            return Cost(gflops, {}, 0, self._parameters)
        gflops["box_head"] = self._roi["box_head"] * num_proposals / 1e9
        per_detection = {p: count / 1e9 for p, count in self._roi.items() if p != "box_head"}
        return Cost(gflops, per_detection, num_proposals, self._parameters)


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


def plain_copy(model: nn.Module) -> nn.Module:
    """
    The network that ``model`` is at the width in force, on the CPU in evaluation mode. Its
    normalisation statistics mean nothing if the model is slimmable.
    """
    if not any(isinstance(module, SlimmableLayer) for module in model.modules()):
        return copy.deepcopy(model).cpu().eval()
    shared = width_of(model).shared
    statistics = shared.statistics
    shared.statistics = _AnyStatistics()
    try:
        return sliced(model).cpu().eval()
    finally:
        shared.statistics = statistics


def multiply_adds(module: nn.Module, *inputs: Tensor) -> Counter[str]:
    """Multiply-adds of one forward pass, by name of submodule, "" for the whole."""
    analysis = FlopCountAnalysis(module, inputs).clear_op_handles().set_op_handle(**_COUNTED)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return analysis.tracer_warnings("none").by_module()


class MapHead(NamedTuple):
    """
    A head that runs on whole maps.

    Attributes:
        layers: the module.
        in_features: the levels that it takes, as a list; None: it takes all, by name.
    """

    layers: nn.Module
    in_features: Sequence[str] | None


@functools.singledispatch
def heads_on_maps(model: nn.Module) -> dict[str, MapHead]:
    """
    The heads of ``model`` that run on every image whatever is in it, by part.

    ValueError for a model whose cost is not counted.
    """
    raise ValueError(f"A {type(model).__name__} is no model whose cost is counted.")


@heads_on_maps.register(GeneralizedRCNN)
def _(model: GeneralizedRCNN) -> dict[str, MapHead]:
    rpn = model.proposal_generator
    return {"rpn": MapHead(rpn.rpn_head, rpn.in_features)}


@heads_on_maps.register(PanopticFPN)
def _(model: PanopticFPN) -> dict[str, MapHead]:
    rpn = model.proposal_generator
    return {
        "rpn": MapHead(rpn.rpn_head, rpn.in_features),
        "semantic_head": MapHead(_Layers(model.sem_seg_head), None),
    }


@heads_on_maps.register(DenseDetector)
def _(model: DenseDetector) -> dict[str, MapHead]:
    return {"dense_head": MapHead(model.head, model.head_in_features)}


@heads_on_maps.register(SemanticSegmentor)
def _(model: SemanticSegmentor) -> dict[str, MapHead]:
    return {"semantic_head": MapHead(_Layers(model.sem_seg_head), None)}


class _DenseNetwork(nn.Module):
    """Cost of what runs whatever is in an image: backbone, neck and the heads on whole maps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        heads = heads_on_maps(model)
        self.backbone = model.backbone
        self.heads = nn.ModuleDict({part: head.layers for part, head in heads.items()})
        self.in_features = {part: head.in_features for part, head in heads.items()}

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.backbone(images)
        outputs = []
        for part, head in self.heads.items():
            if (names := self.in_features[part]) is None:
                outputs.append(head(features))
            else:
                logits, deltas = head([features[name] for name in names])
                outputs += [*logits, *deltas]
        return tuple(outputs)


def _has_neck(backbone: nn.Module) -> bool:
    """Tell whether there is one behind ``backbone.bottom_up``, as in Detectron2's FPN."""
    return hasattr(backbone, "bottom_up")


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
        self.parts = ("backbone", "neck", *self._network.heads)
        self._divisor = model.backbone.size_divisibility
        self._traced: dict[Size, tuple[int, ...]] = {}
        self._coefficients = self._solve() if self._divisor > 1 else None

    def count(self, size: Size) -> tuple[int, ...]:
        """Multiply-adds of one image of padded ``size``, in the order of ``parts``."""
        if self._coefficients is None or any(side % self._divisor for side in size):
            return self._trace(size)
        return self._evaluate(self._coefficients, size)

    def _trace(self, size: Size) -> tuple[int, ...]:
        if size not in self._traced:
            self._traced[size] = self._count_parts(size)
        return self._traced[size]

    def _count_parts(self, size: Size) -> tuple[int, ...]:
        counts = multiply_adds(self._network, torch.zeros(1, 3, *size))
        backbone = counts["backbone"]
        if _has_neck(self._network.backbone):
            backbone = counts["backbone.bottom_up"]
        heads = (counts[f"heads.{part}"] for part in self._network.heads)
        return backbone, counts["backbone"] - backbone, *heads

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


def _count_roi_heads(model: nn.Module) -> dict[str, int]:
    """Multiply-adds of the box head per proposal, and of the other heads per detection."""
    heads = model.roi_heads
    smallest = max(model.backbone.size_divisibility, 64)
    features = model.backbone(torch.zeros(1, 3, smallest, smallest))

    def one_roi(names: Sequence[str], pooler: nn.Module) -> Tensor:
        return torch.zeros(1, features[names[0]].shape[1], *pooler.output_size)

    roi = one_roi(heads.box_in_features, heads.box_pooler)
    box_head = 0
    for head, predictor in zip(_stages(heads.box_head), _stages(heads.box_predictor), strict=True):
        box_head += multiply_adds(nn.Sequential(head, predictor), roi)[""]
    counts = {"box_head": box_head, "mask_head": 0}
    if heads.mask_on:
        roi = one_roi(heads.mask_in_features, heads.mask_pooler)
        counts["mask_head"] = multiply_adds(_Layers(heads.mask_head), roi)[""]
    if heads.keypoint_on:
        roi = one_roi(heads.keypoint_in_features, heads.keypoint_pooler)
        counts["keypoint_head"] = multiply_adds(_Layers(heads.keypoint_head), roi)[""]
    return counts


class _Layers(nn.Module):
    """A head's layers alone: forward goes on to make detections, or a map of the image's size."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, inputs: Tensor | dict[str, Tensor]) -> Tensor:
        return self.head.layers(inputs)


def _stages(head: nn.Module) -> Sequence[nn.Module]:
    """A cascade has a list of heads, which all see every proposal."""
    return head if isinstance(head, nn.ModuleList) else [head]


def _count_parameters(model: nn.Module, parts: Sequence[str]) -> dict[str, int]:
    neck = "neck" if _has_neck(model.backbone) else "backbone"
    prefixes = {
        "backbone.bottom_up.": "backbone",
        "backbone.": neck,
        "proposal_generator.": "rpn",
        "roi_heads.box_": "box_head",
        "roi_heads.mask_": "mask_head",
        "roi_heads.keypoint_": "keypoint_head",
        "sem_seg_head.": "semantic_head",
        "head.": "dense_head",
    }
    counts = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        part = next((part for prefix, part in prefixes.items() if name.startswith(prefix)), None)
        if part is not None:
            counts[part] += parameter.numel()
    return counts

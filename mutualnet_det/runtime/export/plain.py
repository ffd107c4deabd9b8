"""The plain network of an operating point: as a module, as a config builds it, as it is run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ...config import eval_point
from ...family import finds_only_objects
from ...modeling.inference import infer_batch
from ...modeling.memory_format import laid_out
from ...slimmable import OperatingPoint, SlimmableBatchNorm2d, at_width, sliced
from ..pretrained import Pretrained, check_point
from .errors import ExportError

# Images (3, H, W) of uint8, resized, to detections at their scale: ``pred_boxes``, ``scores``,
# ``pred_classes``, and with a mask head ``pred_masks`` (R, 1, 28, 28).
Runner = Callable[[list[Tensor]], list[Instances]]

# Of a meta-architecture, for the same without a slimmable layer, of the width in
# MUTUALNET.TEST_POINT.
PLAIN_PREFIX = "Plain"


def check_finds_objects(cfg: CfgNode) -> None:
    """ExportError, saying what is supported, for a model that gives more or other than objects."""
    if not finds_only_objects(cfg):
        raise ExportError(
            f"The model is a {cfg.MODEL.META_ARCHITECTURE}; what finds objects alone can be "
            "exported: Faster, Mask, Cascade and Keypoint R-CNN and RetinaNet."
        )


def plain_network(pretrained: Pretrained, point: OperatingPoint) -> nn.Module:
    """
    A copy of a model at a calibrated point, with no slimmable layer left.

    PredictorError if the model cannot run there.
    """
    calibrations = pretrained.calibrations
    check_point(pretrained.cfg, calibrations, point)
    with calibrations.at(point):
        plain = sliced(pretrained.model)
    return laid_out(plain)


def _build_plain(cfg: CfgNode, build: Callable[[CfgNode], nn.Module]) -> nn.Module:
    """The plain network, untrained, of the width that ``MUTUALNET.TEST_POINT`` names."""
    model = build(cfg)
    width = eval_point(cfg).width
    # Whatever they are: a checkpoint brings its own.
    statistics = {
        norm: (norm.running_mean[:channels], norm.running_var[:channels])
        for norm in model.modules()
        if isinstance(norm, SlimmableBatchNorm2d) and (channels := norm.dim.at(width))
    }
    with at_width(model, width, statistics=statistics):
        plain = sliced(model)
    return laid_out(plain)


def _register(name: str) -> None:
    def build(cfg: CfgNode) -> nn.Module:
        return _build_plain(cfg, META_ARCH_REGISTRY.get(name))

    build.__name__ = PLAIN_PREFIX + name
    META_ARCH_REGISTRY.register(build)


for _name in ("MutualRCNN", "MutualRetinaNet"):
    _register(_name)


def run(model: nn.Module, images: list[Tensor]) -> list[Instances]:
    """A model of Detectron2's, as a :data:`Runner`."""
    with torch.no_grad():
        outputs = infer_batch(model, [{"image": image} for image in images])
    return [output.instances for output in outputs]


def as_instances(image: Tensor, result: dict[str, Tensor]) -> Instances:
    """Detections of a graph on an image, in Detectron2's names."""
    instances = Instances(tuple(image.shape[-2:]))
    instances.pred_boxes = Boxes(result["boxes"])
    instances.scores, instances.pred_classes = result["scores"], result["classes"]
    if "masks" in result:
        instances.pred_masks = result["masks"][:, None]
    return instances

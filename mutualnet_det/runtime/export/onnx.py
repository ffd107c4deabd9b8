"""ONNX: one image of any size; runs in onnxruntime and needs neither torch nor this project."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from ...slimmable import OperatingPoint
from . import contract
from .card import Format
from .errors import ExportError
from .graph import DetectorGraph, TorchNMS, check_has_graph
from .plain import Runner, as_instances

FILE = "model.onnx"
TAKES_BATCHES = False
# The first that has Detectron2's ROIAlign.
OPSET = 16


def check(cfg: CfgNode, model: nn.Module) -> None:
    """ExportError for a model that cannot be written in this format, or a package that lacks."""
    check_has_graph(cfg, model)
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f'--format onnx needs {" and ".join(missing)}: pip install "mutualnet_det[export]", '
            'or in a checkout pip install -e ".[export]".'
        )


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX's operator, whose boxes are in batches (here groups) and whose scores have classes."""

    @staticmethod
    def forward(ctx, boxes, scores, iou, threshold):
        group, place = TorchNMS()(boxes, scores, iou, threshold)
        return torch.stack([group, torch.zeros_like(group), place], dim=1)

    @staticmethod
    def symbolic(g, boxes, scores, iou, threshold):
        def constant(value):
            return g.op("Constant", value_t=torch.tensor([value]))

        scores = g.op("Unsqueeze", scores, constant(1))
        most = constant(torch.iinfo(torch.int64).max)
        return g.op("NonMaxSuppression", boxes, scores, most, constant(iou), constant(threshold))


class OnnxNMS(nn.Module):
    """:class:`TorchNMS`, with an operator for all groups at once."""

    def forward(
        self, boxes: Tensor, scores: Tensor, iou: float, threshold: float
    ) -> tuple[Tensor, Tensor]:
        group, _, place = _NonMaxSuppression.apply(boxes, scores, iou, threshold).unbind(dim=1)
        order = scores[group, place].argsort(descending=True)
        return group[order], place[order]


class OneImage(nn.Module):
    """A graph as ONNX has it: image (3, H, W) of uint8 to the tensors named ``outputs``."""

    def __init__(self, graph: DetectorGraph, outputs: list[str]) -> None:
        super().__init__()
        self.graph = graph
        self.outputs = outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (result,) = self.graph([image])
        return tuple(result[name] for name in self.outputs)


@torch.no_grad()
def write(plain: nn.Module, cfg: CfgNode, point: OperatingPoint, folder: Path) -> None:
    """Write a plain network, in evaluation mode, into a folder."""
    import onnx

    graph = DetectorGraph(plain, OnnxNMS()).eval()
    outputs = contract.output_names(plain)
    path = str(folder / FILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            OneImage(graph, outputs),
            (torch.zeros(3, 64, 96, dtype=torch.uint8),),
            path,
            input_names=["image"],
            output_names=outputs,
            dynamic_axes={"image": {1: "height", 2: "width"}}
            | {name: {0: "detections"} for name in outputs},
            opset_version=OPSET,
            # The exporter of torch.export takes no sizes that depend on the data.
            dynamo=False,
        )
    onnx.checker.check_model(path)


def load(folder: Path) -> Runner:
    """Load what runs the network in a folder, image by image, on torch's number of CPU threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        str(folder / FILE), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def detect(image: Tensor) -> Instances:
        results = session.run(names, {"image": image.numpy()})
        return as_instances(image, dict(zip(names, map(torch.from_numpy, results), strict=True)))

    return lambda images: [detect(image) for image in images]


def describe(plain: nn.Module, cfg: CfgNode, point: OperatingPoint, folder: Path) -> Format:
    """Text of a card about the network in a folder."""
    return Format(
        "ONNX",
        ("torch", "onnx", "onnxruntime"),
        f"`{FILE}`, of opset {OPSET}, is all of it; onnxruntime runs it.",
        f"`image`: {contract.inputs(plain, cfg, point)}",
        contract.outputs(plain),
        contract.code(
            *(plain, cfg, point),
            imports="import numpy as np\nimport onnxruntime\nfrom PIL import Image",
            load=f'session = onnxruntime.InferenceSession("{FILE}")',
            detect='session.run(None, {"image": pixels})',
        ),
    )

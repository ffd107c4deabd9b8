"""TorchScript: any number of images at once; needs torch and torchvision to run, nothing else."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from ...slimmable import OperatingPoint
from . import contract
from .card import Format
from .graph import DetectorGraph, TorchNMS, check_has_graph
from .plain import Runner, as_instances

FILE = "model.ts"
TAKES_BATCHES = True


def check(cfg: CfgNode, model: nn.Module) -> None:
    """ExportError for a model that cannot be written in this format."""
    check_has_graph(cfg, model)


@torch.no_grad()
def write(plain: nn.Module, cfg: CfgNode, point: OperatingPoint, folder: Path) -> None:
    """Write a plain network, in evaluation mode, into a folder."""
    graph = DetectorGraph(copy.deepcopy(plain), TorchNMS()).eval()
    with warnings.catch_warnings():
        # Asserts on shapes become constants, as they should.
        warnings.simplefilter("ignore")
        # Layers are traced, as they are not written for scripting, and have no step that depends
        # on the data; what is around them is scripted.
        graph.trunk = torch.jit.trace(
            graph.trunk, torch.zeros(1, 3, 64, 96), strict=False, check_trace=False
        )
        channels = graph.trunk(torch.zeros(1, 3, 64, 96))[0][0].shape[1]
        for name in ("box", "mask"):
            head, pooler = getattr(graph, f"{name}_head"), getattr(graph, f"{name}_pooler")
            if head is not None:
                regions = torch.zeros(2, channels, *pooler.level_poolers[0].output_size)
                setattr(graph, f"{name}_head", torch.jit.trace(head, regions, check_trace=False))
        # Frozen: normalisation is folded into the convolutions.
        torch.jit.freeze(torch.jit.script(graph)).save(str(folder / FILE))


def load(folder: Path) -> Runner:
    """Load what runs the network in a folder."""
    module = torch.jit.load(str(folder / FILE))

    def run(images: list[Tensor]) -> list[Instances]:
        with torch.no_grad():
            results = module(images)
        return [as_instances(*each) for each in zip(images, results, strict=True)]

    return run


def describe(plain: nn.Module, cfg: CfgNode, point: OperatingPoint, folder: Path) -> Format:
    """Text of a card about the network in a folder."""
    names = contract.output_names(plain)
    return Format(
        "TorchScript",
        ("torch", "torchvision"),
        f"`{FILE}` is all of it; a program needs torch and torchvision.",
        f"A list of images, of one or several sizes. Each is {contract.inputs(plain, cfg, point)}",
        f"A list with a dict for each image:\n\n{contract.outputs(plain)}",
        contract.code(
            *(plain, cfg, point),
            imports="import numpy as np\nimport torch\nimport torchvision  # has its operators\n"
            "from PIL import Image",
            load=f'model = torch.jit.load("{FILE}")',
            detect=f"(model([torch.from_numpy(pixels)])[0][name].numpy() for name in {names})",
        ),
    )

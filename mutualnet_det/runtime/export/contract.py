"""The part of a card that TorchScript and ONNX share: what a graph takes and gives."""

from __future__ import annotations

import inspect

from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn

from ...slimmable import OperatingPoint
from . import host
from .card import normalisation, resizing
from .graph import OUTPUTS

_MEANINGS = {
    "boxes": ("(R, 4)", "float32", "x1, y1, x2, y2 in px of the resized image"),
    "scores": ("(R,)", "float32", "probability of the class, falling"),
    "classes": ("(R,)", "int64", "index into the classes below"),
    "masks": ("(R, {0}, {0})", "float32", "probability of the object on a grid over its box"),
}


def output_names(plain: nn.Module) -> list[str]:
    """The names of what the graph of a plain network gives, in order."""
    return [name for name in OUTPUTS if name != "masks" or plain.roi_heads.mask_on]


def inputs(plain: nn.Module, cfg: CfgNode, point: OperatingPoint) -> str:
    """The input contract of one image."""
    return (
        f"(3, H, W) in uint8, 0-255, in the order {' '.join(cfg.INPUT.FORMAT)}, "
        f"{resizing(cfg, point)}. Height and width are free. "
        f"{normalisation(cfg, plain.backbone.size_divisibility)}"
    )


def outputs(plain: nn.Module) -> str:
    """The output contract of one image, as a table."""
    side = 2 * plain.roi_heads.mask_pooler.output_size[0] if plain.roi_heads.mask_on else 0
    rows = [(name, *(x.format(side) for x in _MEANINGS[name])) for name in output_names(plain)]
    table = tabulate(rows, ("output", "shape", "type", "meaning"), tablefmt="github")
    return f"{table}\n\nR, the number of detections, may be 0."


def code(
    plain: nn.Module, cfg: CfgNode, point: OperatingPoint, imports: str, load: str, detect: str
) -> str:
    """
    A program that finds what is in ``image.jpg``, in the pixels of that image.

    Args:
        imports, load: lines of it.
        detect: an expression of ``pixels``, the input, that gives the outputs in order.
    """
    names = output_names(plain)
    functions = [host.resized] + ([host.paste] if "masks" in names else [])
    flip = "[::-1]" if cfg.INPUT.FORMAT == "BGR" else ""
    lines = [
        imports,
        "",
        "",
        "\n\n".join(inspect.getsource(function) for function in functions),
        "",
        load,
        'image = Image.open("image.jpg").convert("RGB")',
        f"size = resized(*image.size, short={point.resolution}, longest={cfg.INPUT.MAX_SIZE_TEST})",
        "pixels = np.asarray(image.resize(size, Image.BILINEAR)).transpose(2, 0, 1)",
        f"pixels = np.ascontiguousarray(pixels{flip})",
        f"{', '.join(names)} = {detect}",
        "boxes = boxes * np.tile(np.divide(image.size, size), 2)",
    ]
    if "masks" in names:
        lines.append("masks = [paste(mask, box, *image.size) for mask, box in zip(masks, boxes)]")
    return "\n".join(lines) + "\n"

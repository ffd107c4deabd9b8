"""The card of an export: what it costs and finds, what it takes and gives, how it is loaded."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn

from ...slimmable import OperatingPoint
from ..pretrained import Pretrained
from ..query_table import SCORE_LABELS, QueryEntry
from .verify import Agreement


@dataclass(frozen=True)
class Format:
    """
    Text of a card about a format.

    Attributes:
        name: for people.
        packages: that it was written and compared with.
        files: what they are and what a program needs to run them.
        inputs, outputs: what the network takes and gives.
        code: finds what is in ``image.jpg``.
    """

    name: str
    packages: Sequence[str]
    files: str
    inputs: str
    outputs: str
    code: str


def card(
    form: Format,
    plain: nn.Module,
    pretrained: Pretrained,
    point: OperatingPoint,
    entry: QueryEntry | None,
    agreement: Agreement,
) -> str:
    """The card, in Markdown; ``entry`` is None for a point that was not evaluated."""
    versions = [f"{package} {version(package)}" for package in ("mutualnet_det", *form.packages)]
    return f"""# Operating point {point} for {form.name}

A plain network, with the channels that a slimmable one has at width {point.width:g}, for images of
a short side of {point.resolution} px. {form.files}

{_cost(plain, entry, pretrained.table.dataset)}

## Input

{form.inputs}

## Output

{form.outputs}

Detections have scores above {agreement.threshold:g}; an image has at most {agreement.most}.

{_classes(pretrained.table.classes)}

## Use

```python
{form.code}```

## Checked

It was compared with the slimmable model at this operating point, on the CPU:
{agreement}.
Written with {", ".join(versions)} on Python {platform.python_version()}.
"""


def resizing(cfg: CfgNode, point: OperatingPoint) -> str:
    """Describe how an image becomes the one that the network sees."""
    return (
        f"resized to a short side of {point.resolution} px, less where the long side would exceed "
        f"{cfg.INPUT.MAX_SIZE_TEST} px, bilinearly with antialiasing as Pillow does it"
    )


def normalisation(cfg: CfgNode, divisor: int) -> str:
    """Describe what the network does with an image itself."""
    mean, deviation = (
        ", ".join(f"{value:g}" for value in values)
        for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )
    return (
        f"The network itself subtracts the mean ({mean}), divides by the deviation ({deviation}), "
        f"in the order {' '.join(cfg.INPUT.FORMAT)}, and pads right and bottom with zeros to "
        f"multiples of {divisor} px."
    )


def _cost(plain: nn.Module, entry: QueryEntry | None, dataset: str) -> str:
    parameters = sum(parameter.numel() for parameter in plain.parameters())
    rows = [("parameters", f"{parameters:,}")]
    if entry is None:
        rows.append(("AP", "unknown: this operating point was not evaluated"))
    else:
        gflops = f"{entry.gflops:.4g} per image (multiply-adds / 1e9)"
        rows.append(("GFLOPs", gflops))
        rows += [
            (SCORE_LABELS[name], f"{getattr(entry, name):.1f} % on {dataset}")
            for name in SCORE_LABELS
            if getattr(entry, name) is not None
        ]
    return tabulate(rows, ("", ""), tablefmt="github", disable_numparse=True)


def _classes(names: Sequence[str]) -> str:
    if not names:
        return (
            "Classes are numbered from 0 in the order of the category ids of the training's data "
            "set; the query table does not name them."
        )
    return "Classes: " + ", ".join(f"{index} {name}" for index, name in enumerate(names)) + "."

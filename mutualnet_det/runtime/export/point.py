"""Exporting an operating point: written, compared with its source, and kept only if they agree."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from ...family import OBJECT_HEADS, family
from ...slimmable import OperatingPoint
from ..pretrained import Pretrained
from ..query_table import QueryEntry
from . import detectron2, onnx, torchscript
from .card import card
from .errors import ExportError
from .images import network_input
from .plain import plain_network, run
from .verify import Agreement

FORMATS: dict[str, ModuleType] = {
    "detectron2": detectron2,
    "torchscript": torchscript,
    "onnx": onnx,
}
# Images at once, where a format takes several.
BATCH = 4


def check_target(output: str | Path) -> None:
    """ExportError, before any work, unless a folder can be made at ``output``."""
    output = Path(output)
    if os.path.lexists(output):
        raise ExportError(
            f"{output} exists already; nothing is overwritten. Give another --output."
        )
    parent = output.absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ExportError(f"{output} cannot be made: {parent} is no folder that can be written to.")


def export_point(
    pretrained: Pretrained,
    point: OperatingPoint,
    format: str,
    output: str | Path,
    images: Sequence[str],
    entry: QueryEntry | None = None,
) -> Agreement:
    """
    Write the plain network of an operating point, with a card, into a new folder.

    It is first read back and compared with the model on images, one by one and, where the format
    takes several, in batches. If they differ nothing is left.

    Args:
        pretrained: a model on the CPU.
        point: a calibrated one.
        format: one of ``FORMATS``.
        output: the folder to make; its parent must be there.
        images: files of at least one image.
        entry: what the evaluation says of the point; None: what the query table says.

    Returns:
        how well they agree.

    Raises:
        ExportError: for a target that exists, a model that the format does not take, a package that
            lacks, and an export that differs from its source, with the first difference.
        PredictorError: for a point that is not calibrated.
    """
    check_target(output)
    form = FORMATS[format]
    form.check(pretrained.cfg, pretrained.model)
    plain = plain_network(pretrained, point)
    if entry is None:
        entry = next((x for x in pretrained.table.entries if x.point == point), None)
    output = Path(output)
    draft = output.with_name(f".{output.name}.{os.getpid()}.draft")
    draft.mkdir()
    try:
        form.write(plain, pretrained.cfg, point, draft)
        agreement = _verify(form, pretrained, point, draft, images)
        (draft / "README.md").write_text(
            card(
                form.describe(plain, pretrained.cfg, point, draft),
                *(plain, pretrained, point, entry, agreement),
            ),
            encoding="utf-8",
        )
        check_target(output)
        draft.rename(output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return agreement


def _verify(
    form: ModuleType,
    pretrained: Pretrained,
    point: OperatingPoint,
    folder: Path,
    images: Sequence[str],
) -> Agreement:
    """Measure how well a network in a folder agrees with its source; ExportError if it does not."""
    cfg = pretrained.cfg
    head = cfg.MODEL[OBJECT_HEADS[family(cfg)]]
    limits = head.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE
    export = form.load(folder)

    def compare(files: Sequence[str], agreement: Agreement) -> None:
        seen = (network_input(pretrained, file, point.resolution) for file in files)
        inputs, sizes = zip(*seen, strict=True)
        with pretrained.calibrations.at(point):
            expected = run(pretrained.model, list(inputs))
        exported = export(list(inputs))
        for each in zip(files, expected, exported, sizes, strict=True):
            agreement.compare(*each)

    agreement = Agreement(*limits)
    for file in images:
        compare([file], agreement)
    if form.TAKES_BATCHES:
        compare(images[:BATCH], Agreement(*limits))
    return agreement

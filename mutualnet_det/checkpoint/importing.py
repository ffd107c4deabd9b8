"""Importing a pretrained network: recognised by its content, converted, and accounted for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

from ..data.class_names import WORDS, ClassNames
from ..slimmable import Channels, OperatingPoint, SlimmableBatchNorm2d
from ..slimmable.calibration import fingerprint
from .detectors import BACKBONE, around_backbone, zoo_classes
from .layouts import (
    CAFFE2,
    DETECTRON2,
    MOBILENET_V2,
    TIMM,
    TORCHVISION,
    Layout,
    Preprocessing,
    skeleton,
)
from .listed_widths import Statistics, counts_of, infer_width, was_updated
from .provenance import provenance
from .reading import CheckpointError, read_checkpoint
from .recognising import recognise_state
from .writing import check_output, write_checkpoint

# What networks are trained at, in px, where nothing else is said: mutually (arXiv 2105.07085), and
# alone.
PUBLISHED_RESOLUTIONS = (224, 192, 160, 128)
STATIC_RESOLUTIONS = (224,)
# Of Detectron2's frozen normalisation, which folded statistics are written for.
FROZEN_EPS = 1e-5


@dataclass
class ImportReport:
    """
    A record of what became of a file's content; prints as a table.

    Attributes:
        path: of the file.
        layout: that it was recognised as.
        width_range: trained widths, smallest and largest.
        resolutions: trained at, in px, largest first.
        num_classes: of the classifier; 0: none.
        preprocessing: recorded with the weights.
        points: calibrations that came along.
        used: the file's entries that were used, by what they are part of.
        unused: its entries that were not, each with the reason.
        notes: what to know before using the result.
    """

    path: str
    layout: Layout
    width_range: tuple[float, float] = (1.0, 1.0)
    resolutions: tuple[int, ...] = STATIC_RESOLUTIONS
    num_classes: int = 0
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    points: list[OperatingPoint] = field(default_factory=list)
    used: dict[str, list[str]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_static(self) -> bool:
        """True if one width alone is trained."""
        return self.width_range[0] == self.width_range[1]

    def __str__(self) -> str:
        facts = [
            ("layout", self.layout),
            (
                "trained widths",
                " to ".join(f"{width:g}" for width in dict.fromkeys(self.width_range)),
            ),
            ("trained resolutions", " ".join(map(str, self.resolutions))),
            ("classes", self.num_classes or "none"),
            ("calibrations", " ".join(map(str, self.points)) or "none"),
            ("INPUT.FORMAT", self.preprocessing.channel_order),
            ("MODEL.PIXEL_MEAN", list(self.preprocessing.mean)),
            ("MODEL.PIXEL_STD", list(self.preprocessing.std)),
        ]
        rows = [(len(keys), keys[0], part) for part, keys in self.used.items() if keys]
        reasons: dict[str, list[str]] = {}
        for key, reason in self.unused.items():
            reasons.setdefault(reason, []).append(key)
        rows += [(len(keys), keys[0], f"not used: {reason}") for reason, keys in reasons.items()]
        parts = [
            self.path,
            tabulate(facts, tablefmt="plain"),
            tabulate(rows, ("entries", "first", "became")),
            *self.notes,
        ]
        return "\n\n".join(parts)


def import_backbone(
    source: str,
    output: str,
    widths: Sequence[float] | None = None,
    resolutions: Sequence[int] | None = None,
    resolution: int | None = None,
    prefix: str | None = None,
    backbone_only: bool = False,
) -> ImportReport:
    """
    Convert a pretrained backbone, or a detector of Detectron2, to a checkpoint of this project.

    Written is ``{"model": state dict in this project's names, "mutualnet": provenance}`` and, where
    the source has statistics of single widths, "calibrations"; or nothing, if anything is wrong.

    Args:
        source, output: files. The source may be in any of the project's ``LAYOUTS``.
        widths: that the source lists statistics for, in its order. None: those, as round as
            possible, that have its channel counts.
        resolutions: trained at, in px. None: the published ones, or 224 for an ordinary network.
        resolution: that the source's statistics were made at, in px. None: the largest one.
        prefix: of the network's entries, where the source holds several networks.
        backbone_only: take the backbone of a detector alone.

    Raises:
        CheckpointError: naming the file and what is wrong with it, or what was given wrongly.
    """
    check_output(output, source)
    content, report = convert_backbone(
        read_checkpoint(source), source, widths, resolutions, resolution, prefix, backbone_only
    )
    write_checkpoint(output, content)
    return report


def convert_backbone(
    checkpoint: Mapping[str, Any],
    path: str,
    widths: Sequence[float] | None = None,
    resolutions: Sequence[int] | None = None,
    resolution: int | None = None,
    prefix: str | None = None,
    backbone_only: bool = False,
) -> tuple[dict[str, Any], ImportReport]:
    """Do the part of :func:`import_backbone` between reading ``path`` and writing."""
    if "mutualnet" in checkpoint:
        raise CheckpointError(
            f"{path} is a checkpoint of this project already: set MODEL.WEIGHTS to it."
        )
    network = recognise_state(checkpoint["model"], path, prefix)
    layout, plain, listed = network.layout, network.plain, network.listed
    report = ImportReport(path, layout)
    source = _Source(layout, plain, path)
    report.unused |= {key: "not a weight" for key in checkpoint if key != "model"}
    others = [name for name in plain if layout.clean(name) not in layout.known]
    report.unused |= dict.fromkeys([*network.outside, *others], "not of the network")
    report.num_classes = _take_classifier(source, report)
    dims = _norm_dims(layout, report.num_classes)
    full = _full_width(source, dims)
    report.width_range = (full, full)
    by_width = _match_listed(source, listed, dims, widths, report)
    report.width_range = (min([full, *by_width]), full)
    report.preprocessing = _preprocessing(layout, str(checkpoint.get("__author__", "")))
    if resolutions is None:
        resolutions = STATIC_RESOLUTIONS if report.is_static else PUBLISHED_RESOLUTIONS
    report.resolutions = tuple(sorted(resolutions, reverse=True))

    by_width = {
        width: statistics for width, statistics in by_width.items() if was_updated(statistics)
    }
    _complete(source, dims, by_width.get(full), report)
    cfg = layout.architecture.config(
        report.num_classes, report.width_range, report.resolutions, report.preprocessing
    )
    model = skeleton(cfg)
    state = source.checked(model.state_dict())
    model.load_state_dict(state, assign=True)
    content: dict[str, Any] = {"model": state, "mutualnet": provenance(cfg)}
    if by_width:
        points = {
            OperatingPoint(width, resolution or report.resolutions[0]): statistics
            for width, statistics in by_width.items()
        }
        content["calibrations"] = {
            "fingerprint": fingerprint(model),
            "points": {
                str(point): {
                    norm: list(statistics.get(norm, source.running(norm))) for norm in dims
                }
                for point, statistics in points.items()
            },
        }
        report.points = sorted(points)
    _take_notes(source, dims, by_width, report)
    around = {} if backbone_only else around_backbone(plain)
    if around:
        content["model"] = {BACKBONE + key: value for key, value in state.items()} | around
        content["mutualnet"]["classes"] = zoo_classes(around)
        _account_for_detector(around, content["mutualnet"]["classes"], report)
    told = {*report.unused, *itertools.chain.from_iterable(report.used.values())}
    untold = [name for name in network.names if name not in told]
    report.unused |= dict.fromkeys(untold, "a count that nothing reads")
    return content, report


class _Source:
    """
    The entries of a file by this project's names.

    Args:
        plain: the file's entries without those of listed widths.
    """

    def __init__(self, layout: Layout, plain: Mapping[str, Tensor], path: str) -> None:
        self.layout = layout
        self.path = path
        self.file_names = {layout.clean(name): name for name in plain}
        self.state = {
            key: layout.to_project(key, plain[self.file_names[name]].detach())
            for key, name in layout.names.items()
            if name in self.file_names
        }
        stem_bias = self.file_names.get(layout.stem_bias)
        self.stem_bias = plain[stem_bias] if layout.stem_bias and stem_bias else None

    def file_name(self, key: str) -> str:
        """The name of an entry in the file."""
        name = self.layout.names[key]
        return self.file_names.get(name, name)

    def running(self, norm: str) -> tuple[Tensor, Tensor]:
        """Mean and variance of the full network."""
        return self.state[f"{norm}.running_mean"], self.state[f"{norm}.running_var"]

    def checked(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        The state dict, in the order, types and shapes of ``expected``; CheckpointError names the
        first entry that does not fit.
        """
        for key, tensor in expected.items():
            value = self.state[key]
            if value.shape != tensor.shape:
                raise CheckpointError(
                    f"{self.path}: {self.file_name(key)} has shape {tuple(value.shape)}; expected "
                    f"{tuple(tensor.shape)} for {self.layout.architecture.name}."
                )
            if not torch.isfinite(value).all():
                raise CheckpointError(f"{self.path}: {self.file_name(key)} is not finite.")
        return {
            key: self.state[key].to(tensor.dtype).contiguous() for key, tensor in expected.items()
        }


def _take_classifier(source: _Source, report: ImportReport) -> int:
    """The number of classes; a tail or classifier that is not whole is dropped."""
    layout = source.layout
    backbone = layout.backbone_names
    head = [key for key in layout.names if key not in backbone]
    present = [key for key in head if key in source.state]
    if all(key in present or key.endswith("num_batches_tracked") for key in head):
        shape = source.state[layout.classifier].shape
        # What is no matrix of classes is found when the shapes are checked.
        num_classes = max(1, shape[0] if len(shape) == 2 else 1)
    else:
        for key in present:
            del source.state[key]
            report.unused[source.file_name(key)] = "a tail without a classifier"
        num_classes = 0
    used = {"the backbone": backbone, "tail and classifier": head}
    report.used = {
        part: [source.file_name(key) for key in keys if key in source.state]
        for part, keys in used.items()
    }
    return num_classes


def _account_for_detector(
    around: Mapping[str, Tensor], classes: ClassNames, report: ImportReport
) -> None:
    for key, value in around.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{report.path}: {key} is not finite.")
        report.unused.pop(key, None)
    report.used["pyramid and heads"] = list(around)
    known = " and ".join(f"{len(names)} {WORDS.get(k, 'classes')}" for k, names in classes.items())
    report.notes.append(
        "It is a whole detector: one of this project with such a pyramid starts from all of it, or "
        "with --backbone-only from its backbone. "
        + (
            f"Its {known} are taken for those of Detectron2's model zoo, on COCO."
            if classes
            else "Its classes have no names, so that heads for another number of them start anew."
        )
    )


def _norm_dims(layout: Layout, num_classes: int) -> dict[str, Channels]:
    """The dimension of each norm."""
    model = skeleton(layout.architecture.config(num_classes))
    return {
        name: module.dim
        for name, module in model.named_modules()
        if isinstance(module, SlimmableBatchNorm2d)
    }


def _full_width(source: _Source, dims: Mapping[str, Channels]) -> float:
    counts = {norm: source.state[f"{norm}.weight"].numel() for norm in dims}
    width = infer_width(counts, dims)
    if width is None:
        # Of most norms there is a width: say which one is out of line with it.
        alone = [infer_width({norm: count}, dims) for norm, count in counts.items()]
        width = max(filter(None, alone), key=alone.count, default=1.0)
        norm = next(
            norm for norm, dim in dims.items() if dim.slims and dim.at(width) != counts[norm]
        )
        raise CheckpointError(
            f"{source.path}: no width of {source.layout.architecture.name} gives its channel "
            f"counts. {source.file_name(f'{norm}.weight')} has {counts[norm]} channels; expected "
            f"{dims[norm].at(width)}, as at width {width:g}."
        )
    return width


def _match_listed(
    source: _Source,
    listed: Mapping[int, Statistics],
    dims: Mapping[str, Channels],
    widths: Sequence[float] | None,
    report: ImportReport,
) -> dict[float, Statistics]:
    """The listed statistics, in this project's names, by the width that they are of."""
    if widths is not None and len(widths) != len(listed):
        raise CheckpointError(
            f"--widths gives {len(widths)} widths, and {source.path} lists statistics for "
            f"{len(listed)}."
        )
    file_norms = {norm: source.layout.rename(f"{norm}.weight")[: -len(".weight")] for norm in dims}
    full = report.width_range[1]
    by_width: dict[float, Statistics] = {}
    for place, (k, by_file_norm) in enumerate(listed.items()):
        statistics = {n: by_file_norm[f] for n, f in file_norms.items() if f in by_file_norm}
        counts = counts_of(statistics)
        if widths is None:
            width = infer_width(counts, dims)
        else:
            width = widths[place]
            for norm, count in counts.items():
                if dims[norm].at(width) != count:
                    raise CheckpointError(
                        f"--widths has {width:g} in place {place + 1}, where {source.path} has "
                        f"{count} channels in {file_norms[norm]}; at that width it has "
                        f"{dims[norm].at(width)}."
                    )
        keys = [
            f"{norm}.bn.{k}.running_{name}" for norm in by_file_norm for name in ("mean", "var")
        ]
        if any(dim.slims and norm not in counts for norm, dim in dims.items()):
            report.unused |= dict.fromkeys(keys, "statistics that some norms lack")
        elif width is None or width > full:
            report.unused |= dict.fromkeys(keys, "statistics with channels of no width")
        elif width in by_width:
            report.unused |= dict.fromkeys(keys, "statistics with channels of an earlier width")
        else:
            by_width[width] = statistics
            if was_updated(statistics):
                report.used[f"statistics at width {width:g}"] = keys
            else:
                report.unused |= dict.fromkeys(keys, "statistics that were never updated")
    return by_width


def _complete(
    source: _Source,
    dims: Mapping[str, Channels],
    statistics: Statistics | None,
    report: ImportReport,
) -> None:
    """Give the full network what statistics and counters the file has elsewhere or not at all."""
    layout, state = source.layout, source.state
    absent = []
    for norm in dims:
        scale = state[f"{norm}.weight"]
        state.setdefault(f"{norm}.num_batches_tracked", torch.tensor(0))
        mean, variance = f"{norm}.running_mean", f"{norm}.running_var"
        if mean in state and variance in state:
            continue
        if statistics is not None and norm in statistics:
            state[mean], state[variance] = statistics[norm]
        else:
            absent.append(norm)
            state[mean] = torch.zeros_like(scale)
            state[variance] = torch.ones_like(scale)
            if layout.may_fold:
                state[variance] -= FROZEN_EPS
    if absent and layout.may_fold:
        report.notes.append(
            "Its statistics are folded into scale and shift: the full network computes the same in "
            "evaluation mode, but not when it is trained, on the statistics of each batch."
        )
    elif absent:
        report.notes.append(
            "It has no statistics of the full network: calibrate it before it is evaluated."
        )
    if source.stem_bias is not None:
        # The same for the norm behind: the mean of what it sees grows by the bias.
        mean = f"{next(iter(dims))}.running_mean"
        if source.stem_bias.shape != state[mean].shape:
            raise CheckpointError(
                f"{source.path}: {layout.stem_bias} has shape {tuple(source.stem_bias.shape)}; "
                f"expected {tuple(state[mean].shape)}."
            )
        state[mean] = state[mean] - source.stem_bias
        report.used["the first norm's mean"] = [source.file_names[layout.stem_bias]]


def _preprocessing(layout: Layout, author: str) -> Preprocessing:
    # Detectron2's script that converts torchvision's networks signs so.
    return Preprocessing() if "torchvision" in author.lower() else layout.preprocessing


def _take_notes(
    source: _Source,
    dims: Mapping[str, Channels],
    by_width: Mapping[float, Statistics],
    report: ImportReport,
) -> None:
    layout, full = source.layout, report.width_range[1]
    if report.is_static:
        report.notes.append(
            f"It is an ordinary network, trained at width {full:g} alone: "
            "narrower widths are untrained. A detector of such widths takes it with "
            "MUTUALNET.ALLOW_UNTRAINED_WIDTHS True."
        )
    else:
        report.notes.append(
            f"Its trained widths, {report.width_range[0]:g} to {full:g}, are those that it lists "
            "statistics for. Of resolutions and preprocessing it says nothing: they are the "
            "published ones, where none were given."
        )
    others = layout.architecture is MOBILENET_V2 and layout.source in (TORCHVISION, TIMM)
    if others and dims["features.0.1"].at(full) == dims["features.1.conv.2"].at(full):
        report.notes.append(
            f"At width {full:g} {layout.source}'s network adds a shortcut in its first block, "
            "which networks of this project have at no width: outputs differ."
        )
    shared = [norm for norm, dim in dims.items() if not dim.slims]
    if shared and any(width != full for width in by_width):
        report.notes.append(
            f"In all calibrations the statistics of {source.file_name(f'{shared[0]}.weight')} are "
            "the same: the file has one pair for all widths."
        )
    if layout.source in (CAFFE2, DETECTRON2):
        was_msra = report.preprocessing.channel_order == "BGR"
        report.notes.append(
            "The file does not say where its blocks stride nor how images were prepared. Taken for "
            + (
                "one of Microsoft Research Asia, as Detectron2's defaults are: images in BGR, and "
                "stride on the 1x1 convolution. This project's ResNet strides on the 3x3, so that "
                "its outputs differ until it is trained on."
                if was_msra
                else "torchvision's, as its author says: images in RGB, stride on the 3x3 "
                "convolution as here."
            )
        )

"""The query table: the operating points worth using, each with its cost and AP, cheapest first."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from ..errors import UserError
from ..records import Record, first_mistake
from ..slimmable import OperatingPoint

SCHEMA_VERSION = 2
# What a table goes by, or shows: the fields of its entries, by the label of each.
SCORE_LABELS = {
    "panoptic_pq": "PQ",
    "box_ap": "box AP",
    "mask_ap": "mask AP",
    "box_ap_at_100": "box AP@100",
    "mask_ap_at_100": "mask AP@100",
    "keypoint_ap": "keypoint AP",
    "keypoint_ap_at_20": "keypoint AP@20",
    "semantic_miou": "mean IoU",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
}
# What a table holds even where there is none of it.
DETECTION_METRICS = ("box_ap", "mask_ap")
# COCO's own AP, where images have more objects than it counts detections: beside which AP.
COCO_METRICS = {
    "box_ap_at_100": "box_ap",
    "mask_ap_at_100": "mask_ap",
    "keypoint_ap_at_20": "keypoint_ap",
}

Entry = TypeVar("Entry")


class QueryTableError(UserError, ValueError):
    """A query table that cannot be used; the message names the file and the field."""


class BudgetError(UserError, ValueError):
    """A budget that no point of the table fits, that is not one, or of a device it lacks."""


def frontier(
    entries: Iterable[Entry],
    cost: Callable[[Entry], float | None],
    value: Callable[[Entry], float | None],
) -> list[Entry]:
    """
    The entries that no cheaper one beats, cheapest first.

    An entry stays if its value is above that of every other entry whose cost is not higher. Of
    entries equal in both, the first stays. Entries without a cost or a value (None) never stay.
    """
    rated = [
        (entry, price, worth)
        for entry in entries
        if (price := cost(entry)) is not None and (worth := value(entry)) is not None
    ]
    kept: list[Entry] = []
    best = -math.inf
    for entry, _, worth in sorted(rated, key=lambda each: (each[1], -each[2])):
        if worth > best:
            kept.append(entry)
            best = worth
    return kept


@dataclass(frozen=True)
class Latency:
    """
    Time that one image, alone in its batch, takes at an operating point on a device.

    The times are the network's: resizing before it and pasting masks after it are not in them.

    Attributes:
        p50: median time in ms.
        p95: the time in ms that 95 of 100 images take at most.
        memory: MiB at the peak, None where it cannot be measured.
    """

    p50: float
    p95: float
    memory: float | None = None

    @classmethod
    def of(cls, milliseconds: Sequence[float], memory: float | None = None) -> Latency:
        """Make it of the times that images took, at least one."""
        p50, p95 = np.percentile(milliseconds, [50, 95]).round(3).tolist()
        return cls(p50, p95, memory)


@dataclass(frozen=True)
class QueryEntry:
    """
    An operating point of a query table.

    Attributes:
        point: the operating point.
        gflops: multiply-adds per image, in units of 1e9.
        latency: by the name of the device it was measured on, see
            :func:`~mutualnet_det.runtime.device.device_name`.
        box_ap, mask_ap, keypoint_ap: COCO AP in percent, None where there is none (a model without
            masks).
        box_ap_at_100, mask_ap_at_100, keypoint_ap_at_20: AP of as many detections of a class in an
            image as COCO counts, where an image has more objects and AP counts all detections; None
            elsewhere.
        panoptic_pq: panoptic quality in percent.
        semantic_miou: mean intersection over union of the pixels' classes, in percent.
        top1, top5: accuracies of a classifier in percent.
    """

    point: OperatingPoint
    gflops: float
    latency: dict[str, Latency] = field(default_factory=dict)
    box_ap: float | None = None
    mask_ap: float | None = None
    keypoint_ap: float | None = None
    panoptic_pq: float | None = None
    semantic_miou: float | None = None
    top1: float | None = None
    top5: float | None = None
    box_ap_at_100: float | None = None
    mask_ap_at_100: float | None = None
    keypoint_ap_at_20: float | None = None


@dataclass(frozen=True)
class QueryTable:
    """
    The operating points worth using: those that no other beats both in cost and in AP.

    Attributes:
        entries: by increasing GFLOPs, at least one. Each is on the frontier of AP against GFLOPs,
            or against the median latency on a device; else QueryTableError.
        metric: the score that decided, one of ``SCORE_LABELS``.
        model: fingerprint of the weights the table is about.
        dataset: name of the data set the AP was measured on.
        classes: their names, by the number that the model gives; empty where nothing tells them.
    """

    entries: tuple[QueryEntry, ...]
    metric: str
    model: str
    dataset: str
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.metric not in SCORE_LABELS:
            raise QueryTableError(
                f"metric must be one of {', '.join(SCORE_LABELS)}, got {self.metric!r}"
            )
        if not self.entries:
            raise QueryTableError("entries must hold at least one operating point")
        seen: dict[OperatingPoint, int] = {}
        for index, entry in enumerate(self.entries):
            if self.ap(entry) is None:
                raise QueryTableError(f"entries[{index}].{self.metric} must be a number, got None")
            if entry.point in seen:
                raise QueryTableError(
                    f"entries[{index}] is {entry.point}, as entries[{seen[entry.point]}] is; each "
                    "operating point stands once"
                )
            seen[entry.point] = index
            if set(entry.latency) != set(self.devices):
                raise QueryTableError(
                    f"entries[{index}].latency must be on the devices of entries[0].latency, "
                    f"{_listed(self.devices)}; got {_listed(entry.latency)}"
                )
        for index, (before, entry) in enumerate(itertools.pairwise(self.entries), start=1):
            if entry.gflops < before.gflops:
                raise QueryTableError(
                    f"entries[{index}].gflops must be at least the {before.gflops:g} of the entry "
                    f"before it, got {entry.gflops:g}"
                )
        needed = {entry.point for entry in _on_a_frontier(self.entries, self.metric)}
        for index, entry in enumerate(self.entries):
            if entry.point not in needed:
                raise QueryTableError(
                    f"entries[{index}].{self.metric} must be above that of every entry that costs "
                    f"no more, got {self.ap(entry):g}; {entry.point} is of no use by any cost"
                )

    @classmethod
    def of(
        cls,
        entries: Iterable[QueryEntry],
        *,
        metric: str,
        model: str,
        dataset: str,
        classes: Iterable[str] = (),
    ) -> QueryTable:
        """The table of those ``entries`` that are on a frontier of ``metric``."""
        return cls(tuple(_on_a_frontier(entries, metric)), metric, model, dataset, tuple(classes))

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that latency was measured on, the one of the evaluation first."""
        return tuple(self.entries[0].latency)

    def known_device(self, name: str | None = None) -> str:
        """
        The device ``name``; for None the only one.

        Raises:
            BudgetError: if the table has no such device, or several to choose from.
        """
        if not self.devices:
            raise BudgetError(
                "The query table has no latencies to look milliseconds up in. Add a device with "
                "`mutualnet profile`, or give the budget in gflops."
            )
        known = _listed(self.devices)
        if name is None and len(self.devices) > 1:
            raise BudgetError(
                f"The query table has latencies of several devices: {known}. Say which one counts."
            )
        if name not in (None, *self.devices):
            raise BudgetError(
                f"The query table has no latency of the device {name!r}; it has: {known}. Add it "
                "with `mutualnet profile` on that device, choose one of these as the latency "
                "device, or give the budget in gflops."
            )
        return name or self.devices[0]

    def by_gflops(self) -> list[QueryEntry]:
        """The entries that none of fewer GFLOPs beats, cheapest first."""
        return frontier(self.entries, _gflops, self.ap)

    def by_latency(self, device: str | None = None) -> list[QueryEntry]:
        """The entries that none beats that is faster on ``device``, fastest first."""
        return frontier(self.entries, _p50_on(self.known_device(device)), self.ap)

    @property
    def best(self) -> QueryEntry:
        """The entry of highest AP, the first of equal ones."""
        return max(self.entries, key=self.ap)

    def _columns(self) -> list[str]:
        """The metrics to show: those that an entry has, and of a detector box and mask AP."""
        always = DETECTION_METRICS if self.metric in DETECTION_METRICS else ()
        return [
            name
            for name in SCORE_LABELS
            if name in always or any(getattr(entry, name) is not None for entry in self.entries)
        ]

    def ap(self, entry: QueryEntry) -> float:
        """The AP, or accuracy, of ``entry`` that this table goes by."""
        score: float = getattr(entry, self.metric)
        return score

    def lookup(
        self,
        *,
        gflops: float | None = None,
        milliseconds: float | None = None,
        device: str | None = None,
        clamp: bool = False,
    ) -> QueryEntry:
        """
        The entry of highest AP that costs at most ``gflops``, or at most ``milliseconds``.

        Args:
            milliseconds: by the median latency on a device.
            device: one of ``devices``; may be left out if there is only one.
            clamp: give the cheapest entry where none fits.

        Raises:
            BudgetError: if even the cheapest entry costs more; the message names it. Also unless
                exactly one budget is given, and for milliseconds on a device the table lacks.
        """
        if (gflops is None) == (milliseconds is None):
            raise BudgetError(
                f"A budget is either gflops or milliseconds, got gflops={gflops} and "
                f"milliseconds={milliseconds}."
            )
        cost: Callable[[QueryEntry], float | None]
        if gflops is not None:
            choices, cost, budget, unit = self.by_gflops(), _gflops, gflops, "GFLOPs"
        elif milliseconds is not None:
            device = self.known_device(device)
            choices, cost = self.by_latency(device), _p50_on(device)
            budget, unit = milliseconds, "ms"
        priced = [(entry, price) for entry in choices if (price := cost(entry)) is not None]
        within = [entry for entry, price in priced if price <= budget]
        if within:
            return within[-1]
        cheapest, lowest = priced[0]
        if clamp and not math.isnan(budget):
            return cheapest
        raise BudgetError(
            f"No operating point fits a budget of {budget:g} {unit}. "
            f"The cheapest, {cheapest.point}, costs {lowest:.4g} {unit}."
        )

    def to_json(self) -> str:
        """The table as ``query_table.json`` holds it."""
        rows = []
        for entry in self.entries:
            row = {**entry.point._asdict(), "gflops": entry.gflops}
            row |= {name: getattr(entry, name) for name in self._columns()}
            rows.append(row | {"latency": latency_to_dict(entry.latency)})
        return json.dumps(
            {
                "schema": SCHEMA_VERSION,
                "metric": self.metric,
                "model": self.model,
                "dataset": self.dataset,
                "classes": self.classes,
                "entries": rows,
            },
            indent=2,
        )

    @classmethod
    def load(cls, path: str | Path) -> QueryTable:
        """
        Read a ``query_table.json``.

        Raises:
            QueryTableError: naming the file and the field that is missing or wrong.
        """
        try:
            return _TableRecord.model_validate_json(Path(path).read_bytes()).table()
        except ValidationError as error:
            raise QueryTableError(f"{path}: {first_mistake(error)}") from None
        except QueryTableError as error:
            raise QueryTableError(f"{path}: {error}") from None

    def __str__(self) -> str:
        names = self._columns()
        header = ["point", "GFLOPs"]
        notes = []
        for number, device in enumerate(self.devices, start=1):
            mark = f" [{number}]" if len(self.devices) > 1 else ""
            header += [f"ms{mark}", "p95", "MiB"]
            notes.append(
                f"ms{mark}, p95, MiB: median and 95th percentile of one image's time, and peak "
                f"memory, on {device}"
            )
        notes += _coco_notes([name for name in names if name in COCO_METRICS])
        lines = [header + [SCORE_LABELS[name] for name in names]]
        for entry in self.entries:
            line = [str(entry.point), f"{entry.gflops:.4g}"]
            for device in self.devices:
                latency = entry.latency[device]
                line += map(_shown, (latency.p50, latency.p95, latency.memory))
            lines.append(line + [_shown(getattr(entry, name)) for name in names])
        widths = [max(8, *map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            [
                f"Query table of {self.dataset}: the points that no cheaper point, or faster one, "
                f"beats in {SCORE_LABELS[self.metric]}",
                *(
                    "  ".join([f"{first:<9}", *map(str.rjust, rest, widths[1:])])
                    for first, *rest in lines
                ),
                *notes,
            ]
        )


def _coco_notes(own: Sequence[str]) -> list[str]:
    """What a table says under its columns of COCO's own AP."""
    if not own:
        return []
    ours, cocos = (
        " and ".join(SCORE_LABELS[name] for name in names)
        for names in ([COCO_METRICS[name] for name in own], own)
    )
    return [
        f"{ours}: of all detections that TEST.DETECTIONS_PER_IMAGE allows, since images have more "
        "objects than COCO counts",
        f"{cocos}: COCO's own",
    ]


def _gflops(entry: QueryEntry) -> float:
    return entry.gflops


def _p50_on(device: str) -> Callable[[QueryEntry], float | None]:
    return lambda entry: entry.latency[device].p50 if device in entry.latency else None


def _on_a_frontier(entries: Iterable[QueryEntry], metric: str) -> list[QueryEntry]:
    """The ``entries`` on the frontier of ``metric`` by any cost, by their GFLOPs."""
    entries = list(entries)
    devices = {device for entry in entries for device in entry.latency}
    kept = {
        entry.point
        for cost in (_gflops, *map(_p50_on, devices))
        for entry in frontier(entries, cost, lambda e: getattr(e, metric))
    }
    return sorted((entry for entry in entries if entry.point in kept), key=_gflops)


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


# Reading -----------------------------------------------------------------------------------------


class _LatencyRecord(Record):
    p50: PositiveFloat
    p95: PositiveFloat
    memory: PositiveFloat | None

    @model_validator(mode="after")
    def _check_order(self) -> _LatencyRecord:
        if self.p95 < self.p50:
            raise ValueError(f"p95 must be at least the p50 of {self.p50:g}, got {self.p95:g}")
        return self


class _Timed(Record):
    latency: dict[str, _LatencyRecord]

    def by_device(self) -> dict[str, Latency]:
        return {device: Latency(**dict(record)) for device, record in self.latency.items()}


class _EntryRecord(_Timed):
    width: PositiveFloat
    resolution: PositiveInt
    gflops: PositiveFloat
    panoptic_pq: float | None = None
    box_ap: float | None = None
    mask_ap: float | None = None
    keypoint_ap: float | None = None
    semantic_miou: float | None = None
    top1: float | None = None
    top5: float | None = None
    box_ap_at_100: float | None = None
    mask_ap_at_100: float | None = None
    keypoint_ap_at_20: float | None = None

    def entry(self) -> QueryEntry:
        point = OperatingPoint(self.width, self.resolution)
        scores = {name: getattr(self, name) for name in SCORE_LABELS}
        return QueryEntry(point, self.gflops, self.by_device(), **scores)


class _TableRecord(Record):
    version: int = Field(alias="schema")
    metric: str
    model: str
    dataset: str
    # Tables that were written before classes had names in them are as good as ever.
    classes: list[str] = []
    entries: list[_EntryRecord]

    # Before all else: the keys of another schema are not to be complained about.
    @model_validator(mode="before")
    @classmethod
    def _check_schema(cls, table: Any) -> Any:
        schema = table.get("schema") if isinstance(table, dict) else None
        if type(schema) is int and schema != SCHEMA_VERSION:
            advice = (
                "Update mutualnet_det" if schema > SCHEMA_VERSION else "Evaluate the grid again"
            )
            raise ValueError(f"schema is {schema}, this version reads {SCHEMA_VERSION}. {advice}.")
        return table

    def table(self) -> QueryTable:
        for index, entry in enumerate(self.entries):
            for name in DETECTION_METRICS:
                if self.metric in DETECTION_METRICS and name not in entry.model_fields_set:
                    raise QueryTableError(f"entries[{index}].{name} is missing")
        entries = tuple(entry.entry() for entry in self.entries)
        return QueryTable(entries, self.metric, self.model, self.dataset, tuple(self.classes))


def latency_to_dict(latency: dict[str, Latency]) -> dict[str, dict[str, float | None]]:
    """The latencies as ``query_table.json`` and ``grid.json`` hold them."""
    return {device: asdict(times) for device, times in latency.items()}


def latency_from_dict(latency: Any) -> dict[str, Latency]:
    """
    The reverse of :func:`latency_to_dict`.

    Raises:
        QueryTableError: naming the field that is missing or wrong.
    """
    try:
        return _Timed.model_validate({"latency": latency}).by_device()
    except ValidationError as error:
        raise QueryTableError(first_mistake(error)) from None

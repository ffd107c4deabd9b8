"""The query table: the operating points worth using, each with its cost and AP, cheapest first."""

from __future__ import annotations

import itertools
import json
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import UserError
from ..slimmable import OperatingPoint

SCHEMA_VERSION = 1
# What a table goes by, or shows: the fields of its entries, by the label of each.
METRICS = {
    "panoptic_pq": "PQ",
    "box_ap": "box AP",
    "mask_ap": "mask AP",
    "keypoint_ap": "keypoint AP",
    "semantic_miou": "mean IoU",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
}
# What a table holds even where there is none of it.
DETECTION_METRICS = ("box_ap", "mask_ap")

Entry = TypeVar("Entry")


class QueryTableError(UserError, ValueError):
    """A query table that cannot be used; the message names the file and the field."""


class BudgetError(UserError, ValueError):
    """A budget that no operating point of the table fits, or that is not one budget."""


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
    complete = [e for e in entries if cost(e) is not None and value(e) is not None]
    kept: list[Entry] = []
    for entry in sorted(complete, key=lambda e: (cost(e), -value(e))):
        if not kept or value(entry) > value(kept[-1]):
            kept.append(entry)
    return kept


@dataclass(frozen=True)
class QueryEntry:
    """
    One operating point of a query table.

    Attributes:
        point: the operating point.
        gflops: multiply-adds per image, in units of 1e9.
        milliseconds: median time of one image on the table's device, None if not measured.
        box_ap, mask_ap, keypoint_ap: COCO AP in percent, None where there is none (a model without
            masks).
        panoptic_pq: panoptic quality in percent.
        semantic_miou: mean intersection over union of the pixels' classes, in percent.
        top1, top5: accuracies of a classifier in percent.
    """

    point: OperatingPoint
    gflops: float
    milliseconds: float | None = None
    box_ap: float | None = None
    mask_ap: float | None = None
    keypoint_ap: float | None = None
    panoptic_pq: float | None = None
    semantic_miou: float | None = None
    top1: float | None = None
    top5: float | None = None


@dataclass(frozen=True)
class QueryTable:
    """
    The operating points worth using, cheapest first.

    Attributes:
        entries: with increasing cost and increasing AP, at least one; else QueryTableError.
        metric: the score that decided, one of ``METRICS``.
        model: fingerprint of the weights the table is about.
        dataset: name of the data set the AP was measured on.
        device: name of the device the milliseconds were measured on.
    """

    entries: tuple[QueryEntry, ...]
    metric: str
    model: str
    dataset: str
    device: str

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise QueryTableError(
                f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}"
            )
        if not self.entries:
            raise QueryTableError("entries must hold at least one operating point")
        for index, entry in enumerate(self.entries):
            if self.ap(entry) is None:
                raise QueryTableError(f"entries[{index}].{self.metric} must be a number, got None")
        for index, (cheap, dear) in enumerate(itertools.pairwise(self.entries), start=1):
            for field, low, high in (
                ("gflops", cheap.gflops, dear.gflops),
                (self.metric, self.ap(cheap), self.ap(dear)),
            ):
                if not low < high:
                    raise QueryTableError(
                        f"entries[{index}].{field} must be above the {low:g} of the cheaper entry "
                        f"before it, got {high:g}"
                    )

    @classmethod
    def of(
        cls, entries: Iterable[QueryEntry], *, metric: str, model: str, dataset: str, device: str
    ) -> QueryTable:
        """The table of those ``entries`` that no cheaper one beats in ``metric``."""
        kept = frontier(entries, lambda e: e.gflops, lambda e: getattr(e, metric))
        return cls(tuple(kept), metric, model, dataset, device)

    def _columns(self) -> list[str]:
        """The metrics to show: those that an entry has, and of a detector box and mask AP."""
        always = DETECTION_METRICS if self.metric in DETECTION_METRICS else ()
        return [
            name
            for name in METRICS
            if name in always or any(getattr(entry, name) is not None for entry in self.entries)
        ]

    def ap(self, entry: QueryEntry) -> float | None:
        """The AP, or accuracy, of ``entry`` that this table goes by."""
        return getattr(entry, self.metric)

    def lookup(
        self,
        *,
        gflops: float | None = None,
        milliseconds: float | None = None,
        clamp: bool = False,
    ) -> QueryEntry:
        """
        The entry of highest AP that costs at most ``gflops``, or at most ``milliseconds``.

        Args:
            clamp: give the cheapest entry where none fits.

        Raises:
            BudgetError: if even the cheapest entry costs more; the message names it. Also unless
                exactly one budget is given.
            QueryTableError: for ``milliseconds``, if an entry has none.
        """
        if (gflops is None) == (milliseconds is None):
            raise BudgetError(
                f"A budget is either gflops or milliseconds, got gflops={gflops} and "
                f"milliseconds={milliseconds}."
            )
        cost, unit, budget = operator.attrgetter("gflops"), "GFLOPs", gflops
        if gflops is None:
            cost, unit, budget = operator.attrgetter("milliseconds"), "ms", milliseconds
        unknown = [str(entry.point) for entry in self.entries if cost(entry) is None]
        if unknown:
            raise QueryTableError(
                f"The query table has no milliseconds of {', '.join(unknown)}, so it cannot be "
                "asked for a time. Give the budget in gflops, or evaluate the grid again."
            )
        within = [entry for entry in self.entries if cost(entry) <= budget]
        if within:
            return within[-1]
        # A dearer point may take less time; of equal ones the better.
        cheapest = min(reversed(self.entries), key=cost)
        if clamp and not math.isnan(budget):
            return cheapest
        raise BudgetError(
            f"No operating point fits a budget of {budget:g} {unit}. "
            f"The cheapest, {cheapest.point}, costs {cost(cheapest):.4g} {unit}."
        )

    def to_json(self) -> str:
        """The table as ``query_table.json`` holds it."""
        rows = []
        for entry in self.entries:
            row = entry.point._asdict()
            row |= {"gflops": entry.gflops, "milliseconds": entry.milliseconds}
            rows.append(row | {name: getattr(entry, name) for name in self._columns()})
        return json.dumps(
            {
                "schema": SCHEMA_VERSION,
                "metric": self.metric,
                "model": self.model,
                "dataset": self.dataset,
                "device": self.device,
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
            return cls._from_json(json.loads(Path(path).read_text()))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise QueryTableError(f"{path}: not JSON: {error}") from None
        except QueryTableError as error:
            raise QueryTableError(f"{path}: {error}") from None

    @classmethod
    def _from_json(cls, table: Any) -> QueryTable:
        if not isinstance(table, dict):
            raise QueryTableError(f"expected an object, got {type(table).__name__}")
        schema = _field(table, "schema", int)
        if schema != SCHEMA_VERSION:
            raise QueryTableError(
                f"schema is {schema}, this version reads {SCHEMA_VERSION}. "
                + (
                    "Update mutualnet_det."
                    if schema > SCHEMA_VERSION
                    else "Evaluate the grid again to write a new table."
                )
            )
        entries = []
        metric = _field(table, "metric", str)
        needed = set(DETECTION_METRICS if metric in DETECTION_METRICS else (metric,))
        for index, row in enumerate(_field(table, "entries", list)):
            where = f"entries[{index}]."
            if not isinstance(row, dict):
                raise QueryTableError(f"entries[{index}] must be an object, got {row!r}")
            point = OperatingPoint(
                _number(row, "width", where, positive=True),
                _field(row, "resolution", int, where),
            )
            if point.resolution <= 0:
                raise QueryTableError(
                    f"{where}resolution must be a positive number of pixels, got {point.resolution}"
                )
            entries.append(
                QueryEntry(
                    point,
                    gflops=_number(row, "gflops", where, positive=True),
                    milliseconds=_number(row, "milliseconds", where, positive=True, null=True),
                    **{
                        n: _number(row, n, where, null=True)
                        for n in METRICS
                        if n in needed | set(row)
                    },
                )
            )
        names = (_field(table, name, str) for name in ("metric", "model", "dataset", "device"))
        return cls(tuple(entries), *names)

    def __str__(self) -> str:
        widths = {name: max(8, len(METRICS[name])) for name in self._columns()}
        lines = [
            f"Query table of {self.dataset}: the points no cheaper point beats in "
            f"{METRICS[self.metric]}",
            f"{'point':<10} {'GFLOPs':>9} {'ms':>9}"
            + "".join(f" {METRICS[name]:>{width}}" for name, width in widths.items()),
        ]
        for entry in self.entries:
            lines.append(
                f"{str(entry.point):<10} {entry.gflops:>9.4g} {_shown(entry.milliseconds):>9}"
                + "".join(f" {_shown(getattr(entry, n)):>{w}}" for n, w in widths.items())
            )
        lines.append(f"ms: median of one image on {self.device}")
        return "\n".join(lines)


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}"


_KINDS = {int: "a whole number", str: "a text", list: "a list"}


def _field(record: dict, name: str, kind: type, where: str = "") -> Any:
    if name not in record:
        raise QueryTableError(f"{where}{name} is missing")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise QueryTableError(f"{where}{name} must be {_KINDS[kind]}, got {value!r}")
    return value


def _number(
    record: dict, name: str, where: str, *, positive: bool = False, null: bool = False
) -> Any:
    if name not in record:
        raise QueryTableError(f"{where}{name} is missing")
    value = record[name]
    if value is None and null:
        return None
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or (positive and value <= 0):
        kind = "a positive number" if positive else "a number"
        raise QueryTableError(f"{where}{name} must be {kind}, got {value!r}")
    return float(value)

"""The grid: cost, time and AP at every operating point, as a value that is saved and read back."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.faults import examples
from ..errors import UserError
from ..runtime import Latency, QueryEntry, QueryTable, QueryTableError
from ..runtime.query_table import latency_from_dict, latency_to_dict
from ..slimmable import OperatingPoint
from .cost import Cost
from .files import replacing
from .scoring import KINDS

SCHEMA_VERSION = 3


class GridError(UserError, ValueError):
    """A ``grid.json`` that cannot be read."""


@dataclass(frozen=True)
class GridRow:
    """
    An operating point of a grid.

    Attributes:
        point: the operating point.
        cost: what was counted.
        detections_per_image: the mean number of detections on the grid's images.
        latency: of one image, by device; the one of the evaluation is the first.
        scores: by kind (of a detector "box", "mask" and maybe others), the metrics of
            :data:`~mutualnet_det.evaluation.scoring.KINDS` in percent; None for "mask" without a
            mask head.
    """

    point: OperatingPoint
    cost: Cost
    detections_per_image: float
    latency: dict[str, Latency]
    scores: dict[str, dict[str, Any] | None]

    @property
    def gflops(self) -> float:
        """Per image, at the mean number of detections."""
        return self.cost.total(self.detections_per_image)

    @property
    def milliseconds(self) -> float:
        """Median time of one image on the device of the evaluation."""
        return next(iter(self.latency.values())).p50

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of scores there are, the one that decides first."""
        return tuple(kind for kind, scores in self.scores.items() if scores is not None)

    def metrics(self, kind: str, first: int | None = None) -> tuple[str, ...]:
        """The metrics of a kind, or the ``first`` ones, and COCO's own AP where AP is not it."""
        known = KINDS[kind]
        scores = self.scores[kind] or {}
        own = (metric for metric in known.coco_columns.values() if metric in scores)
        return (*known.metrics[:first], *own)

    def score(self, kind: str, metric: str | None = None) -> float | None:
        """A metric of a kind in percent, by default the main one; None where there is none."""
        scores = self.scores[kind] or {}
        return scores.get(metric or KINDS[kind].metrics[0])

    def with_latency(self, device: str, latency: Latency) -> GridRow:
        """The row with the latency on one more device, or in place of what it had."""
        return dataclasses.replace(self, latency={**self.latency, device: latency})

    def evaluated_on(self, device: str, memory: float | None) -> GridRow:
        """The row with the name of the evaluation's device, and the peak memory there in MiB."""
        (latency,) = self.latency.values()
        latency = dataclasses.replace(latency, memory=memory)
        return dataclasses.replace(self, latency={device: latency})

    def entry(self) -> QueryEntry:
        """The point as a query table lists it."""
        columns = {
            column: self.score(kind, metric)
            for kind in self.kinds
            for column, metric in {**KINDS[kind].columns, **KINDS[kind].coco_columns}.items()
        }
        return QueryEntry(self.point, self.gflops, self.latency, **columns)

    def to_dict(self) -> dict[str, Any]:
        """The row as ``grid.json`` holds it."""
        parameters = self.cost.parameters
        return {
            **self.point._asdict(),
            "gflops": {"total": self.gflops, **self.cost.by_part(self.detections_per_image)},
            "gflops_per_detection": self.cost.gflops_per_detection,
            "num_proposals": self.cost.num_proposals,
            "detections_per_image": self.detections_per_image,
            "parameters": {"total": sum(parameters.values()), **parameters},
            "latency": latency_to_dict(self.latency),
            **self.scores,
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> GridRow:
        """The reverse of :meth:`to_dict`."""
        latency = latency_from_dict(row["latency"])
        if not latency:
            raise QueryTableError("latency must be on at least one device, got none")
        per_detection = row["gflops_per_detection"]
        total_of = {"total", *per_detection}
        cost = Cost(
            gflops={part: n for part, n in row["gflops"].items() if part not in total_of},
            gflops_per_detection=per_detection,
            num_proposals=row["num_proposals"],
            parameters={part: n for part, n in row["parameters"].items() if part != "total"},
        )
        return cls(
            OperatingPoint(row["width"], row["resolution"]),
            cost,
            row["detections_per_image"],
            latency,
            {kind: row[kind] for kind in KINDS if kind in row},
        )


@dataclass(frozen=True)
class Grid:
    """
    The operating points under evaluation.

    Attributes:
        rows: by width, then resolution.
        run: what the grid is about, as ``grid.json`` holds it: data set, weights, device, versions,
            config.
    """

    rows: tuple[GridRow, ...]
    run: dict[str, Any]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of scores there are, see :attr:`GridRow.kinds`."""
        return self.rows[0].kinds

    def query_table(self) -> QueryTable:
        """The points on a frontier of the first kind's main metric."""
        return QueryTable.of(
            (row.entry() for row in self.rows),
            metric=next(iter(KINDS[self.kinds[0]].columns)),
            model=self.run["weights_fingerprint"],
            dataset=self.run["dataset"],
            classes=self.run.get("classes", ()),
        )

    def __str__(self) -> str:
        shown = [(kind, metric) for kind in self.kinds for metric in self.rows[0].metrics(kind, 3)]
        names = [f"{kind} {metric}".rjust(9) for kind, metric in shown]
        lines = [" ".join([f"{'point':<10} {'GFLOPs':>9} {'ms':>9}", *names])]
        for row in self.rows:
            scores = [row.score(kind, metric) for kind, metric in shown]
            texts = ["-" if score is None else f"{score:.1f}" for score in scores]
            lines.append(
                f"{row.point!s:<10} {row.gflops:>9.3f} {row.milliseconds:>9.1f} "
                + " ".join(map(str.rjust, texts, map(len, names)))
            )
        return "\n".join([*lines, *self.notes])

    @property
    def notes(self) -> list[str]:
        """Lines to tell below a table."""
        names = self.run.get("images_left_out", ())
        if not names:
            return []
        shown = examples(map(os.path.basename, names))
        return [
            f"{len(names)} of {self.run['num_images'] + len(names)} images cannot be used and are "
            f"left out: {shown}"
        ]

    def save(self, folder: Path) -> None:
        """Write ``grid.json``, ``grid.csv``, ``query_table.json`` and ``query_table.txt``."""
        table = self.query_table()
        with replacing(folder / "grid.csv") as file:
            rows = [_csv_row(row) for row in self.rows]
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        write_query_table(table, folder, self.notes)
        # Last: where there is a grid.json, the rest is there too.
        with replacing(folder / "grid.json") as file:
            rows = [row.to_dict() for row in self.rows]
            json.dump({"schema": SCHEMA_VERSION, "run": self.run, "rows": rows}, file, indent=1)

    @classmethod
    def load(cls, path: str | Path) -> Grid:
        """Read a ``grid.json``; GridError, naming it, if it is none or of another schema."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA_VERSION:
                raise GridError(
                    f"{path} has schema {content['schema']}, this version reads {SCHEMA_VERSION}. "
                    + (
                        "Update mutualnet_det."
                        if content["schema"] > SCHEMA_VERSION
                        else "Evaluate the grid again, without --resume, to write a new one."
                    )
                )
            return cls(tuple(GridRow.from_dict(row) for row in content["rows"]), content["run"])
        except (
            *(AttributeError, KeyError, TypeError, RecursionError),
            *(QueryTableError, json.JSONDecodeError, UnicodeDecodeError),
        ) as error:
            raise GridError(f"{path} is not a grid.json: {error!r}.") from error


def write_query_table(table: QueryTable, folder: Path, notes: Sequence[str] = ()) -> None:
    """Write ``query_table.json`` and ``query_table.txt``, there with the notes below."""
    with replacing(folder / "query_table.json") as file:
        file.write(table.to_json() + "\n")
    with replacing(folder / "query_table.txt") as file:
        file.write("\n".join([str(table), *notes]) + "\n")


def _csv_row(row: GridRow) -> dict[str, Any]:
    by_part = row.cost.by_part(row.detections_per_image)
    values: dict[str, Any] = {
        **row.point._asdict(),
        "gflops": row.gflops,
        **{f"gflops_{part}": gflops for part, gflops in by_part.items()},
        "parameters": sum(row.cost.parameters.values()),
        "detections_per_image": row.detections_per_image,
    }
    for device, latency in row.latency.items():
        values[f"p50_ms on {device}"] = latency.p50
        values[f"p95_ms on {device}"] = latency.p95
        values[f"memory_mib on {device}"] = latency.memory
    for kind in row.scores:
        values |= {f"{kind}_{metric}": row.score(kind, metric) for metric in row.metrics(kind)}
    return values

"""The grid: cost, time and AP at every operating point, as a value that is saved and read back."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime import QueryEntry, QueryTable
from ..slimmable import OperatingPoint
from .cost import PARTS, Cost
from .files import replacing
from .scoring import METRICS

SCHEMA_VERSION = 1


class GridError(UserError, ValueError):
    """A ``grid.json`` that cannot be read."""


@dataclass(frozen=True)
class GridRow:
    """
    One operating point of a grid.

    Attributes:
        point: the operating point.
        cost: what was counted.
        detections_per_image: the mean number of detections on the grid's images.
        milliseconds: median time of one image.
        box, mask: what :func:`~mutualnet_det.evaluation.scoring.score` gives; ``mask`` is None for
            a model without a mask head.
    """

    point: OperatingPoint
    cost: Cost
    detections_per_image: float
    milliseconds: float
    box: dict[str, Any]
    mask: dict[str, Any] | None

    @property
    def gflops(self) -> float:
        """Per image, at the mean number of detections."""
        return self.cost.total(self.detections_per_image)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of AP there are: "box" and, with a mask head, "mask"."""
        return ("box",) if self.mask is None else ("box", "mask")

    def ap(self, kind: str) -> float | None:
        """Box or mask AP in percent, by ``kind`` "box" or "mask"; None where there is none."""
        scores = getattr(self, kind)
        return None if scores is None else scores["AP"]

    def entry(self) -> QueryEntry:
        """This point as a query table lists it."""
        return QueryEntry(
            self.point, self.gflops, self.milliseconds, self.ap("box"), self.ap("mask")
        )

    def to_dict(self) -> dict[str, Any]:
        """As ``grid.json`` holds it."""
        parameters = self.cost.parameters
        return {
            **self.point._asdict(),
            "gflops": {"total": self.gflops, **self.cost.by_part(self.detections_per_image)},
            "mask_head_gflops_per_detection": self.cost.mask_head_gflops_per_detection,
            "num_proposals": self.cost.num_proposals,
            "detections_per_image": self.detections_per_image,
            "parameters": {"total": sum(parameters.values()), **parameters},
            "milliseconds": self.milliseconds,
            "box": self.box,
            "mask": self.mask,
        }

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> GridRow:
        """The reverse of :meth:`to_dict`."""
        cost = Cost(
            gflops={part: row["gflops"][part] for part in PARTS if part != "mask_head"},
            mask_head_gflops_per_detection=row["mask_head_gflops_per_detection"],
            num_proposals=row["num_proposals"],
            parameters={part: row["parameters"][part] for part in PARTS},
        )
        return cls(
            OperatingPoint(row["width"], row["resolution"]),
            cost,
            row["detections_per_image"],
            row["milliseconds"],
            row["box"],
            row["mask"],
        )


@dataclass(frozen=True)
class Grid:
    """
    All operating points under evaluation.

    Attributes:
        rows: by width, then resolution.
        run: what the grid is about, as ``grid.json`` holds it: data set, weights, device, versions,
            config.
    """

    rows: tuple[GridRow, ...]
    run: dict[str, Any]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of AP there are, see :attr:`GridRow.kinds`."""
        return self.rows[0].kinds

    def query_table(self) -> QueryTable:
        """The points that no cheaper point beats in box AP."""
        return QueryTable.of(
            (row.entry() for row in self.rows),
            metric="box_ap",
            model=self.run["weights_fingerprint"],
            dataset=self.run["dataset"],
            device=self.run["device"],
        )

    def __str__(self) -> str:
        metrics = METRICS[:3]
        lines = [
            f"{'point':<10} {'GFLOPs':>9} {'ms':>9} "
            + " ".join(f"{f'{kind} {metric}':>9}" for kind in self.kinds for metric in metrics)
        ]
        for row in self.rows:
            scores = [getattr(row, kind)[metric] for kind in self.kinds for metric in metrics]
            lines.append(
                f"{str(row.point):<10} {row.gflops:>9.3f} {row.milliseconds:>9.1f} "
                + " ".join(f"{'-' if s is None else format(s, '.1f'):>9}" for s in scores)
            )
        return "\n".join(lines)

    def save(self, folder: Path) -> None:
        """Write ``grid.json``, ``grid.csv``, ``query_table.json`` and ``query_table.txt``."""
        table = self.query_table()
        with replacing(folder / "grid.csv") as file:
            writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(_csv_row, self.rows))
        with replacing(folder / "query_table.json") as file:
            file.write(table.to_json() + "\n")
        with replacing(folder / "query_table.txt") as file:
            file.write(f"{table}\n")
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
                    f"{path} has schema {content['schema']}, this version reads {SCHEMA_VERSION}."
                )
            return cls(tuple(GridRow.from_dict(row) for row in content["rows"]), content["run"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise GridError(f"{path} is not a grid.json: {error!r}.") from error


CSV_COLUMNS = (
    *("width", "resolution", "gflops", *(f"gflops_{part}" for part in PARTS)),
    *("parameters", "milliseconds", "detections_per_image"),
    *(f"{kind}_{metric}" for kind in ("box", "mask") for metric in METRICS),
)


def _csv_row(row: GridRow) -> dict[str, Any]:
    by_part = row.cost.by_part(row.detections_per_image)
    values = {
        **row.point._asdict(),
        "gflops": row.gflops,
        **{f"gflops_{part}": gflops for part, gflops in by_part.items()},
        "parameters": sum(row.cost.parameters.values()),
        "milliseconds": row.milliseconds,
        "detections_per_image": row.detections_per_image,
    }
    for kind in ("box", "mask"):
        scores = getattr(row, kind) or {}
        values |= {f"{kind}_{metric}": scores.get(metric) for metric in METRICS}
    return values

"""Evaluating a classifier: top-1 and top-5 accuracy at every operating point."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import Tensor

from ..data.classification import evaluation_images, load_classification_records
from ..data.images import read_record
from ..modeling.classifier import MutualClassifier
from ..runtime import Latency
from ..runtime.device import device_name
from ..slimmable import OperatingPoint
from .classification_cost import classification_costs
from .cost import Cost
from .figures import write_charts
from .files import replacing
from .forward import IMAGES_AT_ONCE, At, PointResults, steady_times
from .identity import files_digest
from .latency import timed
from .progress import Progress
from .results import Grid, GridRow

# Images that are timed one by one; all are classified in batches.
NUM_TIMED = 32
TIMING = (
    f"of one forward with a batch of 1, on {NUM_TIMED} images: normalising and the network; "
    "cropping and resizing the image before and the first forward after a change of operating "
    "point are left out"
)


class ClassificationTask:
    """Accuracy of a classifier; see :class:`task.Task`."""

    def __init__(self, cfg: CfgNode, model: MutualClassifier, dataset: str) -> None:
        self._cfg = cfg
        self._model = model
        self.records = [
            {**record, "index": index}
            for index, record in enumerate(load_classification_records(cfg, dataset))
        ]
        # Whole batches.
        size = cfg.MUTUALNET.CLASSIFICATION.TEST_BATCH_SIZE
        self.images_at_once = size * max(1, IMAGES_AT_ONCE // size)
        self.facts = {
            "num_images": len(self.records),
            "classes": list(MetadataCatalog.get(dataset).classes),
            "timing": TIMING,
        }
        labels = json.dumps([(r["file_name"], r["label"]) for r in self.records])
        self.identity = {
            "ground truth": hashlib.sha256(labels.encode()).hexdigest(),
            # Too large to be read for this.
            "images": files_digest((r["file_name"] for r in self.records), contents=False),
        }

    def begin(self, output: Path) -> None:
        """The ground truth is the names of the folders: nothing to write."""

    def costs(self, points: Sequence[OperatingPoint], at: At) -> dict[OperatingPoint, Cost]:
        return classification_costs(self._model.backbone, points)

    def run(
        self,
        records: Sequence[dict],
        points: Sequence[OperatingPoint],
        at: At,
    ) -> PointResults:
        """Yield for every image ``top5``, the labels by falling score, and ``milliseconds``."""
        images = [read_record(record, self._cfg.INPUT.FORMAT) for record in records]
        for resolution, group in itertools.groupby(points, lambda point: point.resolution):
            views = list(evaluation_images(self._cfg, images, resolution))
            for point in group:
                with at(point):
                    best = self._classify(views)
                    times = [
                        timed(self._model, view)[1] if record["index"] < NUM_TIMED else None
                        for view, record in zip(views, records, strict=True)
                    ]
                results = [
                    {"top5": labels, "milliseconds": milliseconds}
                    for labels, milliseconds in zip(best, times, strict=True)
                ]
                results[0]["is_first"] = True
                yield point, results

    def _classify(self, views: Sequence[Tensor]) -> list[list[int]]:
        size = self._cfg.MUTUALNET.CLASSIFICATION.TEST_BATCH_SIZE
        best: list[list[int]] = []
        for start in range(0, len(views), size):
            logits = self._model.logits([{"image": v} for v in views[start : start + size]])
            best += logits.topk(min(5, logits.shape[1])).indices.tolist()
        return best

    def score(self, point: OperatingPoint, cost: Cost, progress: Progress, output: Path) -> GridRow:
        results = list(progress.records(point))
        pairs = [(r["label"], f["top5"]) for r, f in zip(self.records, results, strict=True)]
        accuracy = {
            "top1": _percent([label == best[0] for label, best in pairs]),
            "top5": _percent([label in best for label, best in pairs]),
        }
        with replacing(output / "predictions" / f"{point}.csv") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("file_name", "row", "label", "top5"))
            for record, (label, best) in zip(self.records, pairs, strict=True):
                row = record.get("row", "")
                writer.writerow((record["file_name"], row, label, " ".join(map(str, best))))
        return GridRow(
            point,
            cost,
            detections_per_image=0.0,
            latency={device_name(self._model.device): Latency.of(steady_times(results))},
            scores={"class": accuracy},
        )

    def finish(self, grid: Grid, progress: Progress, output: Path) -> None:
        expected = {output / "predictions" / f"{row.point}.csv" for row in grid.rows}
        for path in (output / "predictions").glob("*.csv"):
            if path not in expected:
                path.unlink()
        write_charts(grid, output / "figures", "accuracy_against_gflops")


def _percent(hits: Sequence[bool]) -> float:
    return 100 * sum(hits) / len(hits)

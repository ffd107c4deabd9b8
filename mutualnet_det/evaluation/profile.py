"""Profiles: the latency of a model's operating points, added to its tables or for a config."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from tabulate import tabulate

from ..calibration import calibrate_points
from ..checkpoint import load_detector
from ..config import check_output_dir, grid_points
from ..data.faults import DatasetError
from ..data.images import read_record
from ..data.records import dataset_records
from ..evenly import evenly
from ..modeling.build import build_network
from ..modeling.classifier import network_of
from ..runtime import QueryTable
from ..runtime.device import device_name
from ..runtime.images import read_image
from ..runtime.pretrained import check_weights, load_pretrained
from ..runtime.sources import ImageFiles
from ..slimmable import Calibrations, OperatingPoint
from .latency import PointProfile, ProfileError, equal_detections, profile_points
from .point_costs import point_costs
from .results import Grid, write_query_table
from .task import dataset_name


@dataclass(frozen=True)
class Profile:
    """
    Measurements on a device; prints as a table of counted against measured speed-up.

    Attributes:
        device: its name.
        gflops: of one image, by operating point.
        points: what was measured, by operating point.
    """

    device: str
    gflops: dict[OperatingPoint, float]
    points: dict[OperatingPoint, PointProfile]

    def __str__(self) -> str:
        dearest = max(self.gflops, key=self.gflops.get)
        rows = []
        for point, gflops in sorted(self.gflops.items(), key=lambda item: item[1]):
            measured = self.points[point]
            p50, p95, memory = dataclasses.astuple(measured.latency)
            rows.append(
                (
                    *(str(point), f"{gflops:.4g}", f"{self.gflops[dearest] / gflops:.1f}x"),
                    *(f"{p50:.1f}", f"{p95:.1f}"),
                    f"{self.points[dearest].latency.p50 / p50:.1f}x",
                    "-" if memory is None else f"{memory:.0f}",
                    f"{measured.detections_per_image:.1f}",
                )
            )
        header = ("point", "GFLOPs", "counted", "ms", "p95", "measured", "MiB", "detections")
        table = tabulate(rows, header, disable_numparse=True, colalign=("left", *["right"] * 7))
        return (
            f"{table}\nms, p95, MiB: median and 95th percentile of one image's time, and peak "
            f"memory, on {self.device}\ncounted, measured: speed-up over {dearest} by GFLOPs and "
            "by ms"
        )


# Images ------------------------------------------------------------------------------------------


def profiling_images(cfg: CfgNode, folder: str | None, count: int) -> list[np.ndarray]:
    """
    Read at most ``count`` images (H, W, 3) of ``INPUT.FORMAT``, evenly from all there are.

    Args:
        folder: where they are; None: in the config's ``DATASETS.TEST``.

    Raises:
        ProfileError: for a data set that cannot be read here.
        SourceError, ImageError: for a folder without images, or an image that cannot be used.
    """
    if folder is not None:
        images = (read_image(path) for path in evenly(ImageFiles([folder]).paths, count))
        return [x if order == cfg.INPUT.FORMAT else x[..., ::-1] for x, order in images]
    try:
        records = dataset_records(cfg, dataset_name(cfg))
        return [read_record(record, cfg.INPUT.FORMAT) for record in evenly(records, count)]
    except DatasetError as error:
        raise ProfileError(
            f"{error} To measure on other images, give a folder of them with --image-folder."
        ) from error


# A folder ----------------------------------------------------------------------------------------


def profile_folder(
    folder: str | Path,
    device: str | None = None,
    *,
    name: str | None = None,
    image_folder: str | None = None,
    num_images: int,
) -> Profile:
    """
    Measure all operating points of an evaluated model, and add the device to its tables.

    The device takes its own place where the tables have it already. AP stays what it is.

    Args:
        folder: see :func:`~mutualnet_det.runtime.pretrained.load_pretrained`; with
            ``grid/grid.json`` all points of the grid are measured, else those of the query table.
        device: to run on; None: the config's.
        name: of the device in the tables; None: :func:`~mutualnet_det.runtime.device.device_name`,
            which a predictor looks for.
        image_folder, num_images: see :func:`profiling_images`; each point runs so many times.

    Raises:
        GridError, PredictorError, ProfileError: before anything is measured, for a file that is
            missing or of other weights, an unknown device, a point that is not calibrated, an empty
            ``name``.
    """
    if name is not None and not name.strip():
        raise ProfileError("The name of the device is empty.")
    grid_folder = Path(folder) / "grid"
    grid_file = grid_folder / "grid.json"
    cfg, model, calibrations, table, table_file = load_pretrained(folder, device)
    grid = Grid.load(grid_file) if grid_file.is_file() else None
    gflops = {entry.point: entry.gflops for entry in table.entries}
    if grid is not None:
        check_weights(grid.run["weights_fingerprint"], calibrations, f"{grid_file}: The grid")
        gflops |= {row.point: row.gflops for row in grid.rows}
    missing = [str(point) for point in gflops if point not in calibrations]
    if missing:
        raise ProfileError(
            f"{', '.join(missing)} cannot be run: there is no calibration of it. Take "
            "calibrations.pth along, which `mutualnet evaluate` writes beside the grid."
        )
    check_output_dir(str(table_file.parent))
    images = profiling_images(cfg, image_folder, num_images)
    points = sorted(gflops, key=lambda point: (point.resolution, point.width))
    profiles = profile_points(cfg, model, points, calibrations.at, images, num_images)
    name = name or device_name(model.device)
    if grid is not None:
        rows = (row.with_latency(name, profiles[row.point].latency) for row in grid.rows)
        dataclasses.replace(grid, rows=tuple(rows)).save(grid_folder)
    if grid is None or table_file.parent != grid_folder:
        write_query_table(_with_latency(table, name, profiles), table_file.parent)
    return Profile(name, gflops, profiles)


def _with_latency(
    table: QueryTable, device: str, profiles: dict[OperatingPoint, PointProfile]
) -> QueryTable:
    entries = (
        dataclasses.replace(entry, latency={**entry.latency, device: profiles[entry.point].latency})
        for entry in table.entries
    )
    # What only the old figures of the device spoke for is left out.
    about = {name: getattr(table, name) for name in ("metric", "model", "dataset", "classes")}
    return QueryTable.of(entries, **about)


# A config ----------------------------------------------------------------------------------------


def profile_config(
    cfg: CfgNode,
    images: list[np.ndarray],
    num_forwards: int,
    *,
    detections: int | None = None,
) -> Profile:
    """
    Measure the operating points of ``MUTUALNET.GRID`` with the weights of ``MODEL.WEIGHTS``, or
    random ones.

    Args:
        images: arrays (H, W, 3) of ``INPUT.FORMAT``; points that the weights' checkpoint has no
            statistics of are calibrated on them.
        num_forwards: how many are timed at each point.
        detections: per image, at every point, see
            :func:`~mutualnet_det.evaluation.latency.equal_detections`; None: what is found.
    """
    points = grid_points(cfg)
    if cfg.MODEL.WEIGHTS:
        model, calibrations = load_detector(cfg, cfg.MODEL.WEIGHTS)
    else:
        seed_all_rng(0)
        model = build_network(cfg).eval()
        calibrations = Calibrations(network_of(model))
    equal = contextlib.nullcontext()
    if detections is not None:
        equal = equal_detections(model, detections)
    with equal:
        missing = [point for point in points if point not in calibrations]
        if missing:
            calibrate_points(cfg, model, calibrations, missing, images)
        sizes = [image.shape[:2] for image in images]
        costs = point_costs(model, cfg, points, sizes, calibrations.at)
        profiles = profile_points(cfg, model, points, calibrations.at, images, num_forwards)
    gflops = {
        point: cost.total(profiles[point].detections_per_image) for point, cost in costs.items()
    }
    return Profile(device_name(model.device), gflops, profiles)

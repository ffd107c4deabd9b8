"""
The pictures of a report: a few images, and what was found on them at every point of the tables.

An image is embedded once; boxes and masks lie over it as outlines, so that the page can show any
operating point and any score threshold.
"""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml
from contourpy import contour_generator
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from matplotlib.colors import to_hex
from PIL import Image

from ...data.coco_check import by_class
from ...evenly import evenly
from ...runtime.drawing import class_colour
from ..results import Grid
from ..scoring import KIND_OF
from ..sheet import choose_images, object_mask, true_objects

logger = logging.getLogger(__name__)

MAX_IMAGES = 6
# Of a run; more points than these are shown evenly from cheap to dear.
MAX_POINTS = 12
MAX_SIDE = 640  # px
JPEG_QUALITY = 82
MIN_SCORE = 0.3
MAX_OBJECTS = 40  # of an image at a point: the most certain
# Of a data set's pictures in the page; images are left out until they fit.
MAX_BYTES = 4_000_000
# How far the outline of a mask may stray, in px of the embedded image.
OUTLINE_TOLERANCE = 0.6

RESULT_TYPE = {kind: iou_type for iou_type, kind in KIND_OF.items()}

ObjectsByPoint = dict[str, list[list[Any]]]  # by operating point, the objects of every image


def collect_pictures(
    folders: Sequence[Path], grids: Sequence[Grid], tables: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """
    Collect what the page shows of ``grids``, found in their ``folders``.

    Args:
        tables: the points of each grid's query table, from cheap to dear.

    Returns:
        dict: ``groups`` of runs on the same ground truth, each with ``dataset``, ``classes`` (name
        and colour by category id), ``images`` (name, size and data URI), ``truth`` (the objects of
        every image) and ``found`` (by the run's index, those at every point); ``notes`` on runs
        that have none. An object is [category id, score or None, box (x, y, width, height), outline
        of the mask or None, keypoints or None], in px of the embedded image. Ids are texts: numbers
        of JavaScript have 53 bits.
    """
    groups: dict[str, list[int]] = {}
    notes = []
    for index, (folder, grid) in enumerate(zip(folders, grids, strict=True)):
        if "box" not in grid.kinds:
            notes.append(f"{grid.run['dataset']}: pictures are of detections, and there are none.")
        elif not (folder / "ground_truth.json").is_file():
            notes.append(f"{grid.run['dataset']}: there is no ground_truth.json in {folder}.")
        else:
            truth = (folder / "ground_truth.json").read_text(encoding="utf-8")
            groups.setdefault(truth, []).append(index)
    made = []
    for truth, runs in groups.items():
        try:
            made.append(_group(json.loads(truth), runs, folders, grids, tables))
        except _NotAtHand as reason:
            notes.append(f"{grids[runs[0]].run['dataset']}: {reason}")
    for note in notes:
        logger.warning("No pictures of %s", note)
    return {"groups": made, "notes": list(dict.fromkeys(notes))}


class _NotAtHand(Exception):
    """Why there are no pictures."""


def _group(
    ground_truth: dict,
    runs: Sequence[int],
    folders: Sequence[Path],
    grids: Sequence[Grid],
    tables: Sequence[Sequence[str]],
) -> dict[str, Any]:
    grid = grids[runs[0]]
    root = _image_folder(grid)
    records = [
        {**image, "image_id": image["id"], "file_name": str(Path(root) / image["file_name"])}
        for image in ground_truth["images"]
    ]
    true = true_objects(records, ground_truth)
    chosen = choose_images(records, true, MAX_IMAGES)
    pictures = [_Picture(record) for record in chosen]
    by_run = {run: _found(folders[run], grids[run], tables[run], pictures) for run in runs}
    truth = [picture.objects(true[picture.image_id]) for picture in pictures]
    colours = {
        str(category["id"]): [category["name"], to_hex(np.array(class_colour(index)) / 255)]
        for index, category in enumerate(by_class(ground_truth))
    }

    def group(count: int) -> dict[str, Any]:
        return {
            "dataset": grid.run["dataset"],
            "classes": colours,
            "minScore": MIN_SCORE,
            "images": [picture.to_dict() for picture in pictures[:count]],
            "truth": truth[:count],
            "found": {
                run: {point: objects[:count] for point, objects in points.items()}
                for run, points in by_run.items()
            },
        }

    count = len(pictures)
    while count > 1 and len(json.dumps(group(count))) > MAX_BYTES:
        count -= 1
    return group(count)


def _image_folder(grid: Grid) -> str:
    """Folders of the images: as the run's config declares them, or as Detectron2 knows them."""
    dataset = grid.run["dataset"]
    declared = yaml.safe_load(grid.run["config"])["DATASETS"].get("COCO_FORMAT", [])
    for name, _, folder in declared:
        if name == dataset:
            return folder
    if dataset in DatasetCatalog.list() and MetadataCatalog.get(dataset).get("image_root"):
        return MetadataCatalog.get(dataset).image_root
    raise _NotAtHand("nothing here knows where the images are.")


def _found(
    folder: Path, grid: Grid, table: Sequence[str], pictures: Sequence[_Picture]
) -> ObjectsByPoint:
    types = [RESULT_TYPE[kind] for kind in grid.kinds if kind in RESULT_TYPE]
    by_point = {}
    for point in evenly(table, MAX_POINTS):
        paths = [folder / "detections" / f"{point}.{iou_type}.json" for iou_type in types]
        if all(path.is_file() for path in paths):
            by_point[point] = _at_point(paths, pictures)
    if not by_point:
        raise _NotAtHand(f"there are no detections in {folder / 'detections'}.")
    return by_point


def _at_point(paths: Iterable[Path], pictures: Sequence[_Picture]) -> list[list[Any]]:
    """The objects of every picture; each file holds the same detections in the same order."""
    merged: dict[int, list[dict]] = {picture.image_id: [] for picture in pictures}
    for number, path in enumerate(paths):
        seen = dict.fromkeys(merged, 0)
        for detection in _of_images(path, merged):
            image_id = detection["image_id"]
            if number == 0:
                merged[image_id].append(detection)
            elif seen[image_id] < len(merged[image_id]):
                merged[image_id][seen[image_id]] |= detection
            seen[image_id] += 1
    objects = []
    for picture in pictures:
        certain = [d for d in merged[picture.image_id] if d["score"] >= MIN_SCORE]
        certain.sort(key=lambda d: -d["score"])
        objects.append(picture.objects(certain[:MAX_OBJECTS]))
    return objects


def _of_images(path: Path, image_ids: Container[int]) -> list[dict]:
    """The COCO results of some images, without holding those of all the others."""

    def kept(read: dict) -> dict | None:
        is_result = "image_id" in read  # a segmentation within one has none
        return None if is_result and read["image_id"] not in image_ids else read

    detections = json.loads(path.read_text(encoding="utf-8"), object_hook=kept)
    return [detection for detection in detections if detection is not None]


class _Picture:
    """An image of the data set, made small enough to embed."""

    def __init__(self, record: dict) -> None:
        path = record["file_name"]
        try:
            pixels = read_image(path, format="RGB")
        except Exception as error:  # damaged files fail in the decoders in any way there is
            raise _NotAtHand(f"the images are not at hand ({path}: {error}).") from error
        self._size = pixels.shape[:2]
        if self._size != (record["height"], record["width"]):
            raise _NotAtHand(f"{path} is not of the size that ground_truth.json says.")
        self.image_id = record["image_id"]
        self._name = Path(path).name
        image = Image.fromarray(pixels)
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        self._width, self._height = image.size
        self._scale = np.array([self._width / self._size[1], self._height / self._size[0]])
        encoded = io.BytesIO()
        image.save(encoded, "JPEG", quality=JPEG_QUALITY, optimize=True)
        self._jpeg = encoded.getvalue()

    def to_dict(self) -> dict[str, Any]:
        content = base64.b64encode(self._jpeg).decode()
        return {
            "name": self._name,
            "width": self._width,
            "height": self._height,
            "source": f"data:image/jpeg;base64,{content}",
        }

    def objects(self, objects: Iterable[dict]) -> list[list[Any]]:
        """Annotations or detections of this image, as the page draws them."""
        return [
            [
                str(o["category_id"]),
                round(o["score"], 3) if "score" in o else None,
                self._scaled(np.reshape(o["bbox"], (2, 2))),
                self._outline(o),
                self._keypoints(o.get("keypoints")),
            ]
            for o in objects
        ]

    def _scaled(self, xy: np.ndarray) -> list[float]:
        return np.round(xy * self._scale, 1).ravel().tolist()

    def _keypoints(self, keypoints: Sequence[float] | None) -> list[float] | None:
        if not keypoints:
            return None
        x, y, shown = np.reshape(keypoints, (-1, 3)).T
        return self._scaled(np.stack([x, y], axis=1)[shown > 0])

    def _outline(self, o: dict) -> str | None:
        """The mask as an SVG path."""
        mask = object_mask(o, *self._size)
        if mask is None:
            return None
        # A rim of nothing closes outlines at the edge of the image; pixels' centres lie at 0.5.
        lines = contour_generator(z=np.pad(mask, 1).astype(np.float32)).lines(0.5)
        path = ""
        for line in lines:
            scaled = shapely.LineString((line - 0.5) * self._scale).simplify(OUTLINE_TOLERANCE)
            corners = np.round(shapely.get_coordinates(scaled)[:-1], 1).tolist()
            if len(corners) > 2:
                path += "M" + "L".join(f"{x:g} {y:g}" for x, y in corners) + "Z"
        return path or None

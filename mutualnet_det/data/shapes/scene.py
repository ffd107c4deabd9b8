"""Contents of a generated image: the shapes, their order, and the exact polygons left visible."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

# An object is placed only where a person could still name it, and where it hides none too much.
MIN_VISIBLE_FRACTION = 0.4  # of the object's own area
MIN_VISIBLE_AREA = 0.35  # of the square of the variant's smallest side
PLACEMENT_TRIES = 50
CIRCLE_VERTICES = 64  # within 0.13 px of a circle of 200 px
SPECK_AREA = 0.5  # px^2; smaller pieces of an object are below what a mask resolves


@dataclass(frozen=True)
class ShapeClass:
    """A category: what its objects' edges and surfaces look like."""

    name: str
    outline: str  # "circle" | "square" | "triangle"
    texture: str  # "plain" | "striped" | "dotted"


@dataclass(frozen=True)
class ShapesVariant:
    """
    A generated data set. Lengths are in px, and ranges include both ends.

    A side is a circle's diameter or the length of a square's or an equilateral triangle's side.
    """

    name: str
    image_size: int
    classes: tuple[ShapeClass, ...]
    objects: tuple[int, int]
    sides: tuple[float, float]
    log_uniform: bool  # sides uniform in their logarithm, else uniform
    clutter: tuple[int, int]  # marks that are no objects


@dataclass(frozen=True)
class SceneObject:
    """A placed object. Coordinates in px, x right and y down, pixel i covering [i, i + 1]."""

    category: int  # index into the variant's classes
    side: float
    angle: float  # radians
    outline: Polygon  # all of it, also what others hide
    visible: BaseGeometry  # Polygon or MultiPolygon: what no object above hides


def sample_scene(variant: ShapesVariant, rng: np.random.Generator) -> list[SceneObject]:
    """Draw the objects of one image, from the bottom one to the top one; there is at least one."""
    count = int(rng.integers(*variant.objects, endpoint=True))
    low, high = variant.sides
    if variant.log_uniform:
        sides = np.exp(rng.uniform(math.log(low), math.log(high), count))
    else:
        sides = rng.uniform(low, high, count)

    scene: list[SceneObject] = []
    # Largest first: a large object hardly finds room among small ones, and giving up on it would
    # skew the sizes. The depth is drawn apart, so small ones lie below large ones as often.
    for side in sorted(sides.tolist(), reverse=True):
        category = int(rng.integers(len(variant.classes)))
        angle = float(rng.uniform(0, 2 * math.pi))
        points = outline_points(variant.classes[category].outline, side, angle)
        margin_low, margin_high = -points.min(axis=0), variant.image_size - points.max(axis=0)
        for _ in range(PLACEMENT_TRIES):
            outline = Polygon(points + rng.uniform(margin_low, margin_high))
            depth = int(rng.integers(len(scene), endpoint=True))
            added = SceneObject(category, side, angle, outline, outline)
            arranged = _insert(scene, added, depth, MIN_VISIBLE_AREA * low**2)
            if arranged is not None:
                scene = arranged
                break
    return scene


def outline_points(outline: str, side: float, angle: float) -> np.ndarray:
    """Vertices (P, 2) of an outline around the origin, turned by ``angle`` radians."""
    vertices = {"circle": CIRCLE_VERTICES, "square": 4, "triangle": 3}[outline]
    # Radius of the circle through the vertices of a regular polygon with that side.
    radius = side / 2 if outline == "circle" else side / (2 * math.sin(math.pi / vertices))
    turns = angle + 2 * math.pi * np.arange(vertices) / vertices
    return radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def visible_polygons(visible: BaseGeometry) -> list[np.ndarray]:
    """
    Cut a visible region into polygons without holes, as COCO's format knows none.

    A region with a hole is cut along a vertical line through it. Both pieces share that line, so
    that they rasterise without a seam at any scale.

    Returns:
        vertices (P, 2) per polygon, P >= 3, in px with two decimals, the first one not repeated.
    """
    pieces = [np.round(shapely.get_coordinates(piece.exterior)[:-1], 2) for piece in _cut(visible)]
    return [points for points in pieces if polygon_area(points) >= SPECK_AREA]


def polygon_area(points: np.ndarray) -> float:
    """Area in px^2 of a simple polygon with vertices (P, 2), by the shoelace formula."""
    x, y = points[:, 0], points[:, 1]
    return 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))


def _insert(
    scene: list[SceneObject], added: SceneObject, depth: int, min_area: float
) -> list[SceneObject] | None:
    """The scene with ``added`` at that depth, or None if anything would be hidden too much."""
    for above in scene[depth:]:
        added = _behind(added, above.outline)
    below = [_behind(item, added.outline) for item in scene[:depth]]
    arranged = [*below, added, *scene[depth:]]
    fair = all(
        item.visible.area >= max(min_area, MIN_VISIBLE_FRACTION * item.outline.area)
        for item in arranged[: depth + 1]
    )
    return arranged if fair else None


def _behind(item: SceneObject, cover: Polygon) -> SceneObject:
    if not item.visible.intersects(cover):
        return item
    left = item.visible.difference(cover)
    return SceneObject(item.category, item.side, item.angle, item.outline, left)


def _cut(region: BaseGeometry) -> list[Polygon]:
    if isinstance(region, Polygon) and not region.interiors:
        return [region]
    if isinstance(region, Polygon):
        left, _, right, _ = region.interiors[0].bounds
        x = round((left + right) / 2, 2)
        x_min, y_min, x_max, y_max = region.bounds
        sides = (
            region.intersection(shapely.box(x_min - 1, y_min - 1, x, y_max + 1)),
            region.intersection(shapely.box(x, y_min - 1, x_max + 1, y_max + 1)),
        )
        return [piece for side in sides for piece in _cut(side)]
    if hasattr(region, "geoms"):  # several pieces; points and lines where they only touch
        parts = [part for part in region.geoms if isinstance(part, Polygon | MultiPolygon)]
        return [piece for part in parts for piece in _cut(part)]
    return []

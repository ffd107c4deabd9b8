"""The pixels of a generated image: colours, textures, light and noise."""

from __future__ import annotations

import math

import numpy as np
import shapely
from PIL import Image, ImageDraw
from shapely.geometry import LineString, MultiLineString, Polygon
from shapely.geometry.base import BaseGeometry

from .scene import SceneObject, ShapesVariant, outline_points

SUPERSAMPLING = 4  # per axis, for antialiased edges
PIL_EXCESS = 0.3  # px that PIL fills beyond a polygon's edge, on average
# Distances between colours, in CIELAB (CIE 1976); 2.3 is just noticeable, 100 is black to white.
BACKGROUND_CONTRAST = (10.0, 35.0)  # between the two colours of a background
OBJECT_CONTRAST = 30.0  # an object's colours to the background's, and to one another
NEIGHBOUR_CONTRAST = 18.0  # to the colours of the other objects
MARK_CONTRAST = 20.0  # a mark's colour to the background's
TEXTURE_PERIOD = (0.15, 0.25)  # of an object's side ...
MIN_TEXTURE_PERIOD = 5.0  # ... but at least this many px: still there at half the size


def render_scene(
    variant: ShapesVariant, scene: list[SceneObject], rng: np.random.Generator
) -> np.ndarray:
    """Draw a scene: RGB pixels (H, W, 3) in uint8, where H = W = ``variant.image_size``."""
    size = variant.image_size
    background = _background_colours(rng)
    mix = _background_mix(size, rng)[..., None]
    canvas = background[0] * (1 - mix) + background[1] * mix

    for _ in range(int(rng.integers(*variant.clutter, endpoint=True))):
        colour = _colours(1, rng, [(background, MARK_CONTRAST)])[0]
        _paint(canvas, _mark(size, rng), lambda x, y, colour=colour: colour)

    used = background[:0]
    for item in scene:
        texture = variant.classes[item.category].texture
        away = [(background, OBJECT_CONTRAST), (used, NEIGHBOUR_CONTRAST)]
        colours = _colours(1 if texture == "plain" else 2, rng, away)
        used = np.concatenate([used, colours])
        _paint(canvas, item.outline, _surface(item, texture, colours, rng))

    light = 1 + rng.uniform(0.05, 0.25) * (2 * _smooth_noise(size, 3, rng) - 1)
    grain = rng.uniform(2, 8) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(canvas * light[..., None] + grain, 0, 255).astype(np.uint8)


# Colours -----------------------------------------------------------------------------------------


def _background_colours(rng: np.random.Generator) -> np.ndarray:
    first = rng.uniform(50, 205, (1, 3)).astype(np.float32)
    others = rng.uniform(30, 225, (256, 3)).astype(np.float32)
    distance = _distances(_lab(others), _lab(first))
    low, high = BACKGROUND_CONTRAST
    wanted = rng.uniform(low, high)
    return np.concatenate([first, others[np.abs(distance - wanted).argmin()][None]])


def _colours(
    count: int, rng: np.random.Generator, away: list[tuple[np.ndarray, float]]
) -> np.ndarray:
    """Random RGB colours (count, 3) at least that far from each of the given sets of colours."""
    chosen = np.empty((0, 3), np.float32)
    for _ in range(count):
        candidates = rng.uniform(15, 240, (128, 3)).astype(np.float32)
        # How far each keeps its distances, as a fraction; where none keeps all, the best one.
        kept, lab = np.ones(len(candidates)), _lab(candidates)
        for colours, distance in [*away, (chosen, OBJECT_CONTRAST)]:
            if len(colours):
                kept = np.minimum(kept, _distances(lab, _lab(colours)) / distance)
        chosen = np.concatenate([chosen, candidates[kept.argmax()][None]])
    return chosen


def _distances(colours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance from each of (N, 3) CIELAB colours to the nearest of (M, 3)."""
    difference = colours[:, None] - others[None]
    return np.sqrt((difference**2).sum(axis=-1)).min(axis=1)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """SRGB in [0, 255] to CIELAB with white D65 (IEC 61966-2-1, CIE 15)."""
    rgb = rgb / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ (np.array(to_xyz).T / [0.9505, 1.0, 1.089])
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


# Textures ----------------------------------------------------------------------------------------


def _background_mix(size: int, rng: np.random.Generator) -> np.ndarray:
    """The share of the background's second colour in each pixel: (H, W) in [0, 1]."""
    y, x = np.mgrid[:size, :size].astype(np.float32) + 0.5
    angle = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    kind = rng.choice(["noise", "gradient", "stripes"])
    if kind == "gradient":
        mix = (along - along.min()) / (along.max() - along.min())
        mix = 0.75 * mix + 0.25 * _smooth_noise(size, int(rng.integers(8, 32)), rng)
    elif kind == "stripes":
        mix = _stripes(along, rng.uniform(8, 40))
    else:
        mix = np.zeros((size, size), np.float32)
        for octave in range(4):
            mix += 0.5 ** (octave + 1) * _smooth_noise(size, 4 * 2**octave, rng)
        mix = (mix - mix.min()) / (mix.max() - mix.min())
    return mix


def _smooth_noise(size: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Random values in [0, 1], (size, size), smooth over ``size / cells`` px."""
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.clip(np.asarray(grid.resize((size, size), Image.BICUBIC)), 0, 1)


def _stripes(along: np.ndarray, period: float) -> np.ndarray:
    """0 or 1 in stripes of half a period, with edges one px wide; ``along`` in px."""
    return np.clip(0.5 + period * (0.25 - np.abs(along / period % 1 - 0.5)), 0, 1)


def _dots(along: np.ndarray, across: np.ndarray, period: float) -> np.ndarray:
    """1 in dots on a square lattice with one dot at the origin, with edges one px wide."""
    to_dot = np.hypot((along / period + 0.5) % 1 - 0.5, (across / period + 0.5) % 1 - 0.5)
    return np.clip(0.5 + period * (0.36 - to_dot), 0, 1)


def _surface(item: SceneObject, texture: str, colours: np.ndarray, rng: np.random.Generator):
    """The colour of an object at x, y (px): a function for ``_paint``."""
    centre = item.outline.centroid
    angle = rng.uniform(0, 2 * math.pi)
    period = max(MIN_TEXTURE_PERIOD, item.side * rng.uniform(*TEXTURE_PERIOD))
    phase = rng.uniform(0, period)
    shading = rng.uniform(0, 0.25) / item.side

    def colour(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = (x - centre.x) * math.cos(angle) + (y - centre.y) * math.sin(angle)
        if texture == "plain":
            return colours[0] * (1 + shading * along[..., None])
        if texture == "striped":
            mix = _stripes(along + phase, period)
        else:
            across = (y - centre.y) * math.cos(angle) - (x - centre.x) * math.sin(angle)
            mix = _dots(along, across, period)
        return colours[0] + (colours[1] - colours[0]) * mix[..., None]

    return colour


# Drawing -----------------------------------------------------------------------------------------


def _mark(size: int, rng: np.random.Generator) -> BaseGeometry:
    """A distractor: a line, an arc, a cross, an outline that is not filled, or a blob."""
    kind = rng.choice(["line", "arc", "cross", "outline", "blob"])
    place = rng.uniform(0, size, 2)
    length = math.exp(rng.uniform(math.log(10), math.log(90)))
    angle = rng.uniform(0, 2 * math.pi)
    stroke = rng.uniform(1.2, 3.5) / 2
    direction = length / 2 * np.array([math.cos(angle), math.sin(angle)])
    if kind == "line":
        return LineString([place - direction, place + direction]).buffer(stroke)
    if kind == "arc":
        turns = angle + np.linspace(0, rng.uniform(1, 4), 24)
        points = place + length / 2 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        return LineString(points).buffer(stroke)
    if kind == "cross":
        across = direction[::-1] * [-1, 1]
        arms = [[place - direction, place + direction], [place - across, place + across]]
        return MultiLineString(arms).buffer(stroke)
    if kind == "outline":
        outline = str(rng.choice(["circle", "square", "triangle"]))
        points = place + outline_points(outline, length, angle)
        return Polygon(points).exterior.buffer(stroke)
    # A blob is bent and lobed, so that no part of it could be one of the outlines.
    turns = 2 * math.pi * np.arange(48) / 48
    radius = 1 + 0.35 * np.sin(int(rng.integers(3, 6)) * turns + angle)
    points = radius[:, None] * np.stack([np.cos(turns), 0.6 * np.sin(turns)], axis=1)
    return Polygon(place + length / 4 * points)


def _paint(canvas: np.ndarray, region: BaseGeometry, colour) -> None:
    """Fill a region of the canvas (H, W, 3) with ``colour(x, y)``, antialiased, in place."""
    region = region.buffer(-PIL_EXCESS / SUPERSAMPLING, join_style="mitre")
    region = region.intersection(shapely.box(0, 0, canvas.shape[1], canvas.shape[0]))
    if region.is_empty:
        return
    left, top, right, bottom = region.bounds
    left, top = math.floor(left), math.floor(top)
    width, height = max(1, math.ceil(right) - left), max(1, math.ceil(bottom) - top)
    cover = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    draw = ImageDraw.Draw(cover)
    for part in getattr(region, "geoms", [region]):
        if not isinstance(part, Polygon):
            continue
        for ring, value in [(part.exterior, 255), *((hole, 0) for hole in part.interiors)]:
            # PIL's coordinates are those of pixel centres.
            points = (shapely.get_coordinates(ring) - (left, top)) * SUPERSAMPLING - 0.5
            draw.polygon([tuple(point) for point in points.tolist()], fill=value)
    alpha = np.asarray(cover.reduce(SUPERSAMPLING), np.float32)[..., None] / 255
    y, x = np.mgrid[top : top + height, left : left + width].astype(np.float32) + 0.5
    patch = canvas[top : top + height, left : left + width]
    patch += alpha * (colour(x, y) - patch)

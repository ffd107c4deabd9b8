"""Detections drawn on an image: masks, boxes, key points, names with scores, a line of text."""

from __future__ import annotations

import colorsys
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances
from PIL import Image, ImageDraw, ImageFont

from .predictor import Prediction

# Detections of a lower score are not drawn.
MIN_SCORE = 0.5
# Key points of a lower score are taken for hidden.
MIN_KEYPOINT_SCORE = 0.05
# Okabe and Ito's colours, told apart with any colour vision.
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#f0e442")
# Images of a shorter long side, in px, are enlarged up to it, at most so many times.
SMALL, MAX_FACTOR = 480, 4
MASK_OPACITY = 0.4
LABEL_OPACITY = 0.85
DARK, WHITE = (24, 24, 24), (255, 255, 255)

Colour = tuple[int, int, int]
# Left, top, right and bottom in px.
Rectangle = tuple[float, float, float, float]


def class_colour(index: int) -> Colour:
    """The colour of a class, the same in every picture: red, green and blue from 0 to 255."""
    if index < len(PALETTE):
        code = PALETTE[index]
        return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))
    # Steps of the golden angle keep any number of further hues apart.
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 0.9))


def text_colour(background: Colour) -> Colour:
    """Black or white, whichever is read more easily on ``background``."""
    red, green, blue = background
    return WHITE if 0.299 * red + 0.587 * green + 0.114 * blue < 153 else DARK


def caption(
    prediction: Prediction,
    seconds: float,
    *,
    gflops: float | None = None,
    milliseconds: float | None = None,
) -> tuple[str, ...]:
    """
    Caption of a picture: the point, its GFLOPs, the time; each beside its budget.

    Args:
        seconds: that were measured.
        gflops, milliseconds: the budget.
    """
    parts = [str(prediction.point)]
    if prediction.entry is not None:
        budget = "" if gflops is None else f" of {gflops:.3g}"
        parts.append(f"{prediction.entry.gflops:.3g}{budget} GFLOPs")
    budget = "" if milliseconds is None else f" of {milliseconds:.3g}"
    parts.append(f"{_rounded(1e3 * seconds)}{budget} ms")
    return tuple(parts)


def _rounded(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def draw_detections(
    image: np.ndarray,
    instances: Instances,
    names: Sequence[str] = (),
    *,
    min_score: float = MIN_SCORE,
    text: Sequence[str] = (),
) -> np.ndarray:
    """
    An image with its detections drawn on it.

    Lines and letters grow with the image, and a small image is enlarged, so that names leave its
    objects visible. Where names would cover each other, the one of the lower score gives way; its
    box stays.

    Args:
        image: RGB, (H, W, 3) in uint8; it stays as it is.
        instances: "pred_boxes", "scores" and "pred_classes" of the image, and where there are,
            "pred_masks" and "pred_keypoints"; on any device.
        names: of the classes; one that has none is shown by its number.
        min_score: of the detections to draw.
        text: for the lower left corner, in a line if there is room, else broken between its parts.

    Returns:
        array (k H, k W, 3) in uint8, where k is 1 unless the image is smaller than SMALL px.
    """
    shown = instances[instances.scores >= min_score].to("cpu")
    factor = min(math.ceil(SMALL / max(image.shape[:2])), MAX_FACTOR)
    if factor > 1:
        image, shown = _enlarged(image, shown, factor)
    height, width = image.shape[:2]
    scale = math.sqrt(height * width)
    line = max(1, round(scale / 260))
    font = _font(max(9, round(scale / 38)))
    # Large ones first, so that small ones stay visible.
    shown = shown[shown.pred_boxes.area().argsort(descending=True)]
    boxes = shown.pred_boxes.tensor.numpy()
    colours = [class_colour(index) for index in shown.pred_classes.tolist()]

    canvas = image.copy()
    if shown.has("pred_masks"):
        for box, mask, colour in zip(boxes, shown.pred_masks.numpy(), colours, strict=True):
            _draw_mask(canvas, box, mask, colour, line)
    picture = Image.fromarray(canvas)
    # Alpha is blended where a colour has it.
    draw = ImageDraw.Draw(picture, "RGBA")
    for box, colour in zip(boxes, colours, strict=True):
        # A dark rim keeps the line visible on a ground of its own colour.
        _draw_box(draw, box, (*DARK, 110), line + 2 * max(1, line // 2), picture.size)
        _draw_box(draw, box, colour, line, picture.size)
    if shown.has("pred_keypoints"):
        for points, colour in zip(shown.pred_keypoints.tolist(), colours, strict=True):
            _draw_keypoints(draw, points, colour, 1.5 * line)

    taken = [_draw_text(draw, text, font, picture.size)] if text else []
    for index in shown.scores.argsort(descending=True).tolist():
        number = int(shown.pred_classes[index])
        name = names[number] if number < len(names) else f"class {number}"
        label = f"{name} {100 * float(shown.scores[index]):.0f}"
        size = _label_size(draw, label, font)
        for place in _label_places(boxes[index], size, picture.size):
            if not any(_overlap(place, other) for other in taken):
                draw.rectangle(place, fill=(*colours[index], round(255 * LABEL_OPACITY)))
                middle = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
                draw.text(middle, label, text_colour(colours[index]), font, anchor="mm")
                taken.append(place)
                break
    return np.asarray(picture)


def _enlarged(image: np.ndarray, instances: Instances, factor: int) -> tuple[np.ndarray, Instances]:
    height, width = (factor * side for side in image.shape[:2])
    larger = Instances((height, width), **instances.get_fields())
    larger.pred_boxes = Boxes(factor * instances.pred_boxes.tensor)
    if instances.has("pred_masks"):
        masks = F.interpolate(
            instances.pred_masks[:, None].float(), (height, width), mode="bilinear"
        )
        larger.pred_masks = masks[:, 0] > 0.5
    if instances.has("pred_keypoints"):
        scale = torch.tensor([factor, factor, 1.0])
        larger.pred_keypoints = instances.pred_keypoints * scale
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(resized), larger


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font: Pillow's has few letters, and systems may have none."""
    folder = Path(matplotlib.get_data_path(), "fonts/ttf")
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


def _draw_mask(
    canvas: np.ndarray, box: np.ndarray, mask: np.ndarray, colour: Colour, line: int
) -> None:
    """Tint the mask (H, W) within its box, and its rim fully."""
    # A mask reaches half a pixel beyond its box; the rim needs a pixel outside the mask.
    margin = line + 1
    left, top = np.maximum(np.floor(box[:2]).astype(int) - margin, 0)
    right, bottom = np.ceil(box[2:]).astype(int) + margin
    mask, part = mask[top:bottom, left:right], canvas[top:bottom, left:right]
    inner = mask
    for _ in range(line):
        inner = _eroded(inner)
    part[mask] = ((1 - MASK_OPACITY) * part[mask] + MASK_OPACITY * np.array(colour)).astype(
        np.uint8
    )
    part[mask & ~inner] = colour


def _eroded(mask: np.ndarray) -> np.ndarray:
    """The mask without the pixels that have a neighbour outside it."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    return inner


def _draw_box(
    draw: ImageDraw.ImageDraw, box: np.ndarray, colour: tuple, line: int, size: tuple[int, int]
) -> None:
    """A frame whose line lies on the box's edges, within the image of ``size``."""
    left, top, right, bottom = (float(x) for x in box)
    half = line // 2
    right, bottom = min(right + half, size[0]) - 1, min(bottom + half, size[1]) - 1
    left, top = max(left - half, 0), max(top - half, 0)
    # Pillow refuses a frame turned inside out.
    draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)


def _draw_keypoints(
    draw: ImageDraw.ImageDraw, points: Sequence[Sequence[float]], colour: Colour, radius: float
) -> None:
    for x, y, score in points:
        if score >= MIN_KEYPOINT_SCORE:
            around = (x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1)
            draw.ellipse(around, fill=colour, outline=WHITE)


def _label_size(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont
) -> tuple[int, int]:
    """Width and height in px; every line of a font is equally high."""
    ascent, descent = font.getmetrics()
    return math.ceil(draw.textlength(text, font)) + 2 * (font.size // 4), ascent + descent


def _label_places(
    box: np.ndarray, size: tuple[int, int], image_size: tuple[int, int]
) -> Iterator[Rectangle]:
    """Places for a label, the best first: on the box, inside, below; at its left or right."""
    width, height = size
    left, top, right, bottom = (float(x) for x in box)
    for y in (top - height, top, bottom - height, bottom):
        for x in (left, right - width):
            x = min(max(x, 0), image_size[0] - width)
            # A label is not moved up or down: it would no longer tell its box.
            if x >= 0 and 0 <= y <= image_size[1] - height:
                yield round(x), round(y), round(x) + width - 1, round(y) + height - 1
    if top < height:
        yield max(0, round(left)), 0, max(0, round(left)) + width - 1, height - 1


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _draw_text(
    draw: ImageDraw.ImageDraw,
    parts: Sequence[str],
    font: ImageFont.FreeTypeFont,
    image_size: tuple[int, int],
) -> Rectangle:
    """The parts, in as few lines as fit the width, on dark ground; returns what they cover."""
    gap = "   "
    lines = [parts[0]]
    for part in parts[1:]:
        longer = lines[-1] + gap + part
        if _label_size(draw, longer, font)[0] <= image_size[0]:
            lines[-1] = longer
        else:
            lines.append(part)
    sizes = [_label_size(draw, line, font) for line in lines]
    height = sizes[0][1]
    top = image_size[1] - height * len(lines)
    place = (0, top, max(width for width, _ in sizes) - 1, image_size[1] - 1)
    draw.rectangle(place, fill=(*DARK, round(255 * 0.75)))
    for number, line in enumerate(lines):
        middle = top + height * (number + 0.5)
        draw.text((font.size // 4, middle), line, WHITE, font, anchor="lm")
    return place

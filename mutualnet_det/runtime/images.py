"""Images as programs have them: files, PIL images, arrays; checked before a network sees them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image, ImageOps

from ..data.pixels import PixelError, check_eight_bits
from ..errors import UserError

# What users give as an image.
AnyImage = np.ndarray | Image.Image | str | os.PathLike


class ImageError(UserError, ValueError):
    """An image that cannot be used; the message names it and what is expected."""


def read_image(
    image: AnyImage, name: str = "image", max_pixels: float = math.inf
) -> tuple[np.ndarray, str]:
    """
    The pixels of an image, and the order of their channels.

    Args:
        image: the path of a file, or a PIL image: turned as its EXIF orientation says and converted
            to RGB, as Detectron2 reads images, so that CMYK, palettes and grey levels are fine. Or
            an array (H, W, 3) in uint8, in BGR as OpenCV has it and Detectron2's
            ``DefaultPredictor`` takes it.
        name: what an error calls an image that is no file.
        max_pixels: larger images are not decoded.

    Returns:
        array (H, W, 3) in uint8, and "RGB" or "BGR".

    Raises:
        ImageError: for a file that is missing or does not decode, one whose pixels have no colour
            of 8 bits each (16-bit grey levels, floats), an array of another kind, an image that is
            empty or too large.
    """
    if isinstance(image, np.ndarray):
        pixels, order = image, "BGR"
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ImageError(
                f"{name} is an array {pixels.shape} of {pixels.dtype}; expected (H, W, 3) of "
                "uint8, with the channels in the order BGR."
            )
        _check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    elif isinstance(image, Image.Image):
        pixels, order = _decoded(image, name, max_pixels), "RGB"
    elif isinstance(image, str | os.PathLike):
        name = f"The image {os.fspath(image)}"
        with open_image(image, name) as file:
            pixels, order = _decoded(file, name, max_pixels), "RGB"
    else:
        raise ImageError(
            f"{name} is a {type(image).__name__}; expected a path, a PIL image or an array "
            "(H, W, 3) of uint8 in BGR."
        )
    return pixels, order


def _check_size(width: int, height: int, name: str, max_pixels: float) -> None:
    if width * height == 0:
        raise ImageError(f"{name} is empty: {width} x {height} px.")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} has {width} x {height} px; at most {max_pixels / 1e6:.3g} million pixels are "
            "taken. Make it smaller."
        )


def open_image(
    path: str | os.PathLike, name: str, formats: Sequence[str] | None = None
) -> Image.Image:
    """
    A file whose header is read, not its pixels yet.

    Args:
        name: what an error calls it.
        formats: those that are taken, as Pillow calls them; None: all that Pillow knows.

    Raises:
        ImageError: for a file that is missing or no image.
    """
    try:
        return Image.open(path, formats=formats)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large: {error}") from error
    except OSError as error:
        reason = error.strerror or "it is of no known format"
        raise ImageError(f"{name} cannot be read: {reason}.") from error
    # Damaged headers fail in any way there is, too.
    except Exception as error:
        raise ImageError(f"{name} cannot be read: {error}") from error


def rgb_pixels(image: AnyImage, name: str = "image", max_pixels: float = math.inf) -> np.ndarray:
    """The pixels of an image in RGB, (H, W, 3) in uint8; see :func:`read_image`."""
    pixels, order = read_image(image, name, max_pixels)
    return pixels if order == "RGB" else np.ascontiguousarray(pixels[..., ::-1])


def _decoded(image: Image.Image, name: str, max_pixels: float) -> np.ndarray:
    _check_size(*image.size, name, max_pixels)
    try:
        check_eight_bits(image)
    except PixelError as error:
        raise ImageError(f"{name} has {error}") from error
    try:
        # What Detectron2's read_image does of a file.
        return convert_PIL_to_numpy(ImageOps.exif_transpose(image), "RGB")
    # Damaged files fail in the decoders in any way there is.
    except Exception as error:
        raise ImageError(f"{name} cannot be decoded: {error}") from error

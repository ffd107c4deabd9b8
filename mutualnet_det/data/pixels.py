"""Pixels that fit no network here: of more than 8 bits, or damaged."""

from __future__ import annotations

import math

from detectron2.utils.file_io import PathManager
from PIL import Image

# Their pixels have 8 bits, and Detectron2 raises the error if they do not decode.
JPEG_SUFFIXES = (".jpg", ".jpeg")


def most_pixels() -> float:
    """The number of pixels above which Pillow reads no image."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else math.inf


def too_large() -> str:
    """What images above :func:`most_pixels` have in common."""
    most = f"{most_pixels() / 1e6:.0f} million pixels"
    return f"images of more than {most}, to be cut into tiles, or made smaller with their boxes"


class PixelError(ValueError):
    """An image whose pixels cannot be used; the message says what it has."""


def check_eight_bits(image: Image.Image) -> None:
    """PixelError for 16-bit grey levels and floats: Pillow would clip them and say nothing."""
    if image.mode.startswith(("I", "F")):
        raise PixelError(
            f"pixels of more than 8 bits (mode {image.mode!r}), and how they map to 0-255 is not "
            "known. Convert it to 8 bits first."
        )


def check_file(path: str) -> None:
    """
    The same of a file, and OSError for one that does not decode, of which Detectron2 would take as
    much as it gets. Of one that is JPEG by its name nothing is read.
    """
    if path.lower().endswith(JPEG_SUFFIXES):
        return
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        check_eight_bits(image)
        # Pillow tells it the first time only, when Detectron2 asks for EXIF and passes it over.
        image.load()

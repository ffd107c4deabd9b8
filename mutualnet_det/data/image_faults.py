"""
The image files of a data set, read before any long work: their headers, or all of those that are
to be scored on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import ExifTags, Image, UnidentifiedImageError

from ..progress_log import ProgressLog
from .faults import BadRecords, DatasetError
from .pixels import PixelError, check_eight_bits, too_large

logger = logging.getLogger(__name__)

# Files are waited for, and Pillow decodes without Python's lock.
THREADS = min(32, 4 * (os.cpu_count() or 1))
FILES_AT_ONCE = 64

ON_ITS_SIDE = (5, 6, 7, 8)  # orientations of EXIF
# The last bytes of a file that is whole.
ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}


class ImageFault(NamedTuple):
    """
    A fault of an image file.

    Attributes:
        kind: what such files have in common.
        reason: what this one has.
    """

    kind: str
    reason: str


class Header(NamedTuple):
    """
    What the header of an image file says.

    Attributes:
        width, height: in px, as the image is read: turned by its EXIF orientation.
        mode: Pillow's name for its channels.
        is_turned: whether EXIF says that it lies on its side.
        num_bytes: of the file.
    """

    width: int
    height: int
    mode: str
    is_turned: bool
    num_bytes: int


def read_header(path: str, *, decode: bool = False) -> Header:
    """
    Read the header of an image file, and see that the file is whole.

    Args:
        decode: decode all of it. If not, only a file that does not end as it should is decoded.

    Raises:
        PixelError: for more than 8 bits per channel.
        OSError, Image.DecompressionBombError: as Pillow does.
    """
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        check_eight_bits(image)
        is_turned = _is_turned(image)
        width, height = image.size[::-1] if is_turned else image.size
        num_bytes = file.seek(0, os.SEEK_END)
        header = Header(width, height, image.mode, is_turned, num_bytes)
        if decode or not _ends(file, image.format):
            image.load()
    return header


def _is_turned(image: Image.Image) -> bool:
    # Of a PNG, Pillow would decode the pixels to find EXIF behind them.
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return False
    return image.getexif().get(ExifTags.Base.Orientation) in ON_ITS_SIDE


def _ends(file: Any, format: str | None) -> bool:
    """Whether a file has the last bytes of its format; others than these say nothing by it."""
    ending = ENDINGS.get(format or "", b"")
    file.seek(-len(ending), os.SEEK_END)
    return not ending or file.read() == ending


def image_fault(record: dict, *, decode: bool = False) -> ImageFault | None:
    """The fault of a record's image file; a record may say what "height" and "width" it has."""
    return fault_of(record, header_or_fault(record, decode=decode))


def header_or_fault(record: dict, *, decode: bool = False) -> Header | ImageFault:
    """The header of a record's image file, or why it cannot be read."""
    try:
        return read_header(record["file_name"], decode=decode)
    except PixelError as error:
        return ImageFault("images of more than 8 bits per channel", str(error))
    except Image.DecompressionBombError as error:
        return ImageFault(too_large(), str(error))
    except UnidentifiedImageError:
        return ImageFault("files that are no images", "no format that Pillow knows")
    except Exception as error:  # decoders raise whatever they like
        return ImageFault("images that cannot be read", str(error) or type(error).__name__)


def fault_of(record: dict, header: Header | ImageFault) -> ImageFault | None:
    """What is wrong with what :func:`header_or_fault` gives: also another size than expected."""
    if isinstance(header, ImageFault):
        return header
    expected = record.get("width", header.width), record.get("height", header.height)
    if expected == (header.width, header.height):
        return None
    turned = " as its EXIF orientation turns it" if header.is_turned else ""
    return ImageFault(
        "images of another size than the annotations say",
        f"{header.width} x {header.height} px{turned}, not {expected[0]} x {expected[1]}",
    )


def each_of(work: Callable[[Any], Any], items: Sequence[Any], what: str) -> Iterator[Any]:
    """
    Yield ``work(item)`` of each, in their order, by several threads; log how far it is.

    Args:
        what: is done, such as "Reading the images of val".
    """
    log = ProgressLog()
    parts = [items[i : i + FILES_AT_ONCE] for i in range(0, len(items), FILES_AT_ONCE)]
    with ThreadPoolExecutor(THREADS) as threads, warnings.catch_warnings():
        # Pillow's, of a size near its limit and of odd metadata; threads share what is ignored.
        warnings.simplefilter("ignore")
        done = 0
        for results in threads.map(lambda part: list(map(work, part)), parts):
            yield from results
            done += len(results)
            if log.is_due():
                left = log.time_left(done, len(items) - done)
                logger.info("%s: %d of %d, %s left", what, done, len(items), left)


# What is known ----------------------------------------------------------------------------------


class Known(NamedTuple):
    """
    What is known of image files: each is read once, whoever asks.

    Attributes:
        faults: by path, and by the height and width that the file should have.
        by_name: those that had a fault once, by data set.
        read: which sets of files were read, and whether all were decoded.
    """

    faults: dict[tuple, ImageFault]
    by_name: defaultdict[str, set[tuple]]
    read: set[tuple[str, bool]]


# Another process may be given it.
KNOWN = Known({}, defaultdict(set), set())


def know(known: Known) -> None:
    """Take over what another process knows."""
    KNOWN.faults.update(known.faults)
    KNOWN.read.update(known.read)


def check_images(
    name: str, records: Sequence[dict], bad_records: str, *, decode: bool = False
) -> None:
    """
    Read a data set's image files before any long work.

    Args:
        name: of the data set.
        records: "file_name" each, and where they are known "height" and "width".
        bad_records: "error", or "skip" to log which files cannot be used: with
            :func:`with_usable_images` they are left out.
        decode: decode all images, not those alone that do not end as they should.

    Raises:
        DatasetError: naming the files; also if none can be used.
    """
    # Those of CIFAR are rows of one file.
    files = {_key(record): record for record in records if "row" not in record}
    everything = hashlib.sha256(repr(sorted(map(str, files))).encode()).hexdigest()
    decode = decode or (everything, True) in KNOWN.read
    if (everything, decode) in KNOWN.read:
        # Nothing new but that some may have been corrected.
        files = {key: record for key, record in files.items() if key in KNOWN.faults}
    what = f"{'Reading' if decode else 'Checking'} the images of {name}"
    found = each_of(lambda r: image_fault(r, decode=decode), list(files.values()), what)
    bad = BadRecords()
    for key, fault in zip(files, found, strict=True):
        KNOWN.faults.pop(key, None)
        if fault is not None:
            KNOWN.faults[key] = fault
            KNOWN.by_name[name].add(key)
            bad.add(fault.kind, f"{key[0]}: {fault.reason}")
    KNOWN.read.add((everything, decode))
    if not bad:
        return
    if bad_records == "error":
        raise DatasetError(
            f"The data set {name!r} has images that cannot be used:\n{bad}\n"
            "Correct them, or set MUTUALNET.BAD_RECORDS skip to leave them out."
        )
    if not with_usable_images(records):
        raise DatasetError(f"The data set {name!r} has no image that can be used:\n{bad}")
    text = f"The data set {name!r}: left out images that cannot be used:\n{bad}"
    log_first_n(logging.WARNING, text, name=__name__, key="message")


def with_usable_images(records: Sequence[dict]) -> list[dict]:
    """The records without those whose images are known to be unusable; no file is read."""
    return [record for record in records if _key(record) not in KNOWN.faults]


def unusable_files(name: str) -> list[str]:
    """The image files of a data set that are known to be unusable."""
    return sorted(key[0] for key in KNOWN.by_name[name] if key in KNOWN.faults)


def _key(record: dict) -> tuple:
    return record["file_name"], record.get("height"), record.get("width")

"""Sources of images and places for their pictures: files, folders, videos, cameras."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from ..errors import UserError
from .images import AnyImage

logger = logging.getLogger(__name__)

# Files of other names are taken for videos.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")
VIDEO_SUFFIXES = (".mp4", ".avi")


class SourceError(UserError, ValueError):
    """A source that gives no images, or an output that pictures cannot be written to."""


class ImageFiles:
    """
    Image files, one after the other: their paths, not read yet.

    Args:
        sources: files, and folders, whose images are taken by their names, without subfolders.

    Raises:
        SourceError: for a path that is not there, a file that is no image by its name, a folder
            without images.
    """

    is_stream = False

    def __init__(self, sources: Sequence[str]) -> None:
        self.paths: list[Path] = []
        for path in map(Path, sources):
            if path.is_dir():
                images = sorted(file for file in path.iterdir() if is_image_name(file))
                if not images:
                    raise SourceError(
                        f"The folder {path} holds no image; images end in "
                        f"{', '.join(IMAGE_SUFFIXES)}. Subfolders are not looked into."
                    )
                self.paths += images
            elif not path.exists():
                raise SourceError(f"There is no file or folder {path}.")
            elif not is_image_name(path):
                raise SourceError(
                    f"{path} is no image by its name; images end in {', '.join(IMAGE_SUFFIXES)}. "
                    "A video stands alone."
                )
            else:
                self.paths.append(path)

    def __iter__(self) -> Iterator[tuple[str, AnyImage]]:
        """Name and path of each."""
        return ((str(path), path) for path in self.paths)


class VideoFrames:
    """
    The frames of a video file or a camera.

    Args:
        source: path of a video, or number of a camera, from 0.

    Raises:
        SourceError: for a video that does not decode, a camera that is not there, and without
            OpenCV; the message says what to do.

    Attributes:
        frame_rate: of a video, in frames per second; None where it is not known, as of a camera,
            whose frames come as they are asked for.
    """

    is_stream = True

    def __init__(self, source: str) -> None:
        self.source = source
        self._is_camera = source.isdecimal()
        if not self._is_camera and not Path(source).exists():
            raise SourceError(f"There is no file or folder {source}.")
        cv2 = _opencv()
        # Twice the same story in OpenCV's and FFmpeg's words would stand around the error.
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        log = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 and 4 have it
        level = log.setLogLevel(0)  # silent
        try:
            self._capture = cv2.VideoCapture(int(source) if self._is_camera else source)
            is_decoded, self._first = self._capture.read()
        finally:
            log.setLogLevel(level)
        if not is_decoded:
            raise SourceError(self._complaint())
        self.frame_rate: float | None = None
        self._count = 0.0
        if self._is_camera:
            # Frames that wait while the model runs are old when they are seen.
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        else:
            rate = self._capture.get(cv2.CAP_PROP_FPS)
            self.frame_rate = rate if 0 < rate < 1000 else None
            self._count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)

    def _complaint(self) -> str:
        if not self._is_camera:
            return (
                f"{self.source} cannot be decoded: it is neither an image by its name nor a video "
                "that OpenCV reads. If other programs play it, convert it, for example to MP4 with "
                "H.264."
            )
        devices = sorted(Path("/dev").glob("video*"))
        listed = ", ".join(map(str, devices)) or "none"
        return (
            f"Camera {self.source} gives no picture. Cameras count from 0; video devices found: "
            f"{listed}. Look whether it is plugged in, no other program has it open, and you may "
            "read its device; or give a video file."
        )

    def __iter__(self) -> Iterator[tuple[str, AnyImage]]:
        """Name and BGR array (H, W, 3) of each frame, in uint8."""
        frame, number = self._first, 0
        try:
            while frame is not None:
                number += 1
                yield f"frame {number}", frame
                frame = self._capture.read()[1]
        finally:
            # A camera serves one program at a time.
            self._capture.release()
        if number < self._count:
            logger.warning(
                "%s breaks off: it says that it has %d frames, %d could be decoded.",
                *(self.source, self._count, number),
            )


def open_source(sources: Sequence[str]) -> ImageFiles | VideoFrames:
    """
    The images of a command line: files and folders, or one video, or one camera by its number.

    Raises:
        SourceError: see :class:`ImageFiles` and :class:`VideoFrames`.
    """
    if len(sources) == 1:
        path = Path(sources[0])
        if not path.is_dir() and not is_image_name(path):
            return VideoFrames(sources[0])
    return ImageFiles(sources)


def is_image_name(path: Path) -> bool:
    """Tell whether a file is an image by its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES


class PictureFolder:
    """
    Writes pictures of images to a folder, as JPEG files named after the images.

    Raises:
        SourceError: before anything is written: for names that are equal, a picture that is there
            already unless ``overwrite``, or one that would take the place of its source.
    """

    def __init__(self, folder: str, images: ImageFiles, *, overwrite: bool) -> None:
        self._folder = Path(folder)
        if self._folder.exists() and not self._folder.is_dir():
            raise SourceError(f"{folder} is no folder, which pictures of images are written to.")
        taken: dict[Path, Path] = {}
        sources = {path.resolve() for path in images.paths}
        for path in images.paths:
            target = self._target(str(path))
            if target in taken:
                raise SourceError(
                    f"{taken[target]} and {path} would both be drawn to {target}. Draw them to "
                    "two folders."
                )
            taken[target] = path
            if target.resolve() in sources:
                raise SourceError(
                    f"The picture of {path} would take its place. Give another --output."
                )
            if target.exists() and not overwrite:
                raise SourceError(
                    f"{target} is there already. Give another --output, or --overwrite."
                )
        _make_folder(self._folder)

    def _target(self, name: str) -> Path:
        return self._folder / f"{Path(name).stem}.jpg"

    def write(self, name: str, picture: np.ndarray) -> None:
        """The picture (H, W, 3) of an image, in RGB."""
        Image.fromarray(picture).save(self._target(name), quality=92)

    def close(self) -> None:
        """Nothing is open."""


class VideoWriter:
    """
    Writes pictures as the frames of a video.

    Args:
        path: ends in ``.mp4`` or ``.avi``.
        frame_rate: frames per second.

    Raises:
        SourceError: for another ending, a file that is there already unless ``overwrite``, one that
            cannot be written, and without OpenCV.
    """

    def __init__(
        self, path: str, frame_rate: float, *, source: str = "", overwrite: bool = False
    ) -> None:
        self.path = Path(path)
        self._frame_rate = frame_rate
        self._writer = None
        self._cv2 = _opencv()
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise SourceError(
                f"A video is written to a file that ends in {' or '.join(VIDEO_SUFFIXES)}, "
                f"got {path}."
            )
        if self.path.exists() and Path(source).exists() and self.path.samefile(Path(source)):
            raise SourceError(f"The picture of {path} would take its place. Give another --output.")
        if self.path.exists() and not overwrite:
            raise SourceError(f"{path} is there already. Give another --output, or --overwrite.")
        _make_folder(self.path.parent)

    def write(self, name: str, picture: np.ndarray) -> None:
        """The next frame (H, W, 3), in RGB, all of one size; its name does not matter."""
        if self._writer is None:
            codec = self._cv2.VideoWriter.fourcc(*"mp4v")
            size = picture.shape[1], picture.shape[0]
            self._writer = self._cv2.VideoWriter(str(self.path), codec, self._frame_rate, size)
            if not self._writer.isOpened():
                raise SourceError(f"The video {self.path} cannot be written.")
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))

    def close(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            self._writer.release()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise SourceError(
            'Videos and cameras need OpenCV: pip install "mutualnet_det[demo]", or in a checkout '
            'pip install -e ".[demo]".'
        ) from error
    return cv2

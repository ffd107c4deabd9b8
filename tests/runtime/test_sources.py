"""Sources and outputs: what is found, and what is said of what cannot be used."""

import logging
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from mutualnet_det.runtime.sources import (
    ImageFiles,
    PictureFolder,
    SourceError,
    VideoFrames,
    VideoWriter,
    open_source,
)

RED = (220, 30, 30)


@pytest.fixture
def images(tmp_path):
    """A folder with three images, a text and a subfolder."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.jpg", "a.PNG", "c.tif", "sub/d.jpg"):
        Image.new("RGB", (8, 6), RED).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def video(tmp_path):
    """12 frames of 64 x 48 px, each brighter than the one before, at 5 frames per second."""
    path = str(tmp_path / "video.avi")
    writer = VideoWriter(path, 5.0)
    for number in range(12):
        writer.write("", np.full((48, 64, 3), 20 * number, np.uint8))
    writer.close()
    return path


def names(source):
    return [name.rpartition("/")[2] for name, _ in source]


def test_images_and_folders(images):
    source = open_source([str(images)])
    assert isinstance(source, ImageFiles) and not source.is_stream
    assert names(source) == ["a.PNG", "b.jpg", "c.tif"]
    files = [str(images / "c.tif"), str(images / "sub")]
    assert names(open_source(files)) == ["c.tif", "d.jpg"]
    assert names(open_source(files[:1])) == ["c.tif"]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["nowhere"], "There is no file or folder nowhere"),
        (["nowhere.jpg"], "There is no file or folder nowhere.jpg"),
        (["nowhere.mp4"], "There is no file or folder nowhere.mp4"),
        (["images/b.jpg", "images/notes.txt"], "notes.txt is no image by its name"),
        (["images/b.jpg", "0"], "There is no file or folder 0"),
        (["empty"], "The folder empty holds no image; images end in .jpg,"),
    ],
)
def test_sources_that_are_none(images, monkeypatch, sources, message):
    monkeypatch.chdir(images.parent)
    (images.parent / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        open_source(sources)


def test_a_video_comes_back_frame_by_frame(video):
    source = open_source([video])
    assert isinstance(source, VideoFrames) and source.is_stream and source.frame_rate == 5
    frames = list(source)
    assert [name for name, _ in frames] == [f"frame {number}" for number in range(1, 13)]
    for number, (_, frame) in enumerate(frames):
        assert frame.shape == (48, 64, 3) and frame.dtype == np.uint8
        assert abs(frame.mean() - 20 * number) < 6


def test_a_video_keeps_its_colours(tmp_path):
    path = tmp_path / "red.mp4"
    writer = VideoWriter(str(path), 5.0)
    writer.write("", np.full((48, 64, 3), RED, np.uint8))
    writer.close()
    ((_, frame),) = VideoFrames(str(path))
    assert np.abs(frame.mean((0, 1)) - RED[::-1]).max() < 12


def test_a_video_that_breaks_off_says_so(video, caplog, monkeypatch):
    source = VideoFrames(video)
    monkeypatch.setattr(source, "_count", 20.0)
    with caplog.at_level(logging.WARNING, "mutualnet_det"):
        assert len(list(source)) == 12
    assert "it says that it has 20 frames, 12 could be decoded" in caplog.text
    caplog.clear()
    assert len(list(VideoFrames(video))) == 12 and not caplog.text


@pytest.mark.parametrize("content", [b"", b"no video" * 1000])
def test_a_file_that_is_no_video(tmp_path, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="broken.mp4 cannot be decoded: it is neither an image"):
        open_source([str(path)])


def test_a_camera_that_is_not_there(capfd):
    with pytest.raises(SourceError, match=r"Camera 93 gives no picture\. .* devices found: "):
        open_source(["93"])
    assert capfd.readouterr() == ("", "")


def test_a_camera_gives_its_frames(monkeypatch):
    class Camera:
        def __init__(self, index):
            assert index == 2
            self.frames = [np.full((4, 5, 3), value, np.uint8) for value in (1, 2)]

        def read(self):
            return (True, self.frames.pop(0)) if self.frames else (False, None)

        def set(self, key, value):
            assert (key, value) == (cv2.CAP_PROP_BUFFERSIZE, 1)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    source = open_source(["2"])
    assert source.is_stream and source.frame_rate is None
    assert [int(frame[0, 0, 0]) for _, frame in source] == [1, 2]


def test_a_video_that_is_left_early_is_let_go(video):
    source = VideoFrames(video)
    frames = iter(source)
    next(frames)
    frames.close()
    assert not source._capture.isOpened()


def test_without_opencv_the_error_says_how_to_get_it(video, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SourceError, match=r'pip install "mutualnet_det\[demo\]"'):
        open_source([video])


def test_pictures_are_named_after_their_images(images, tmp_path):
    source = ImageFiles([str(images)])
    output = PictureFolder(str(tmp_path / "new" / "out"), source, overwrite=False)
    for name, _ in source:
        output.write(name, np.full((6, 8, 3), RED, np.uint8))
    output.close()
    files = sorted((tmp_path / "new" / "out").iterdir())
    assert [file.name for file in files] == ["a.jpg", "b.jpg", "c.jpg"]
    assert np.abs(np.asarray(Image.open(files[0])).mean((0, 1)) - RED).max() < 4


def test_pictures_that_are_there_are_kept_unless_told(images, tmp_path):
    source = ImageFiles([str(images)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.jpg").write_text("mine")
    with pytest.raises(SourceError, match=r"out/b\.jpg is there already\. .* --overwrite"):
        PictureFolder(str(tmp_path / "out"), source, overwrite=False)
    assert (tmp_path / "out/b.jpg").read_text() == "mine"
    PictureFolder(str(tmp_path / "out"), source, overwrite=True)


def test_a_source_is_never_overwritten(images, video):
    with pytest.raises(SourceError, match=r"picture of .*b\.jpg would take its place"):
        PictureFolder(str(images), ImageFiles([str(images)]), overwrite=True)
    with pytest.raises(SourceError, match=r"video\.avi would take its place"):
        VideoWriter(video, 5.0, source=video, overwrite=True)


def test_pictures_of_one_name_are_refused(images, tmp_path):
    Image.new("RGB", (8, 6)).save(images / "b.png")
    with pytest.raises(SourceError, match=r"b\.jpg and .*b\.png would both be drawn to"):
        PictureFolder(str(tmp_path / "out"), ImageFiles([str(images)]), overwrite=False)
    assert not (tmp_path / "out").exists()


def test_outputs_of_the_wrong_kind(images, video, tmp_path):
    with pytest.raises(SourceError, match="video.avi is no folder"):
        PictureFolder(video, ImageFiles([str(images)]), overwrite=False)
    with pytest.raises(SourceError, match=r"ends in \.mp4 or \.avi, got .*out"):
        VideoWriter(str(tmp_path / "out"), 5.0)
    with pytest.raises(SourceError, match=r"video\.avi is there already"):
        VideoWriter(video, 5.0)
    with pytest.raises(SourceError, match=r"video\.avi/out cannot be made: Not a directory"):
        PictureFolder(f"{video}/out", ImageFiles([str(images)]), overwrite=False)
    with pytest.raises(SourceError, match=r"video\.avi/out cannot be made: Not a directory"):
        VideoWriter(f"{video}/out/found.mp4", 5.0)

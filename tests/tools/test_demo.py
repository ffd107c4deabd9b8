"""tools/demo.py on images, a folder and a video."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mutualnet_det.errors import UserError
from mutualnet_det.runtime import BudgetError, PredictorError
from mutualnet_det.runtime.sources import SourceError, VideoFrames, VideoWriter
from tools import demo as tool


@pytest.fixture
def demo(model_folder, capsys):
    """Runs the tool on the CPU; gives what it prints to stdout and stderr."""

    def run(*arguments):
        tool.main(tool.parse_args([str(model_folder), *map(str, arguments), "--device", "cpu"]))
        return capsys.readouterr()

    return run


@pytest.fixture
def images(tiny_shapes, tmp_path):
    """Three images in a folder, the second of them truncated."""
    folder = tmp_path / "images"
    folder.mkdir()
    for source in sorted(Path(tiny_shapes[2]).glob("*.jpg"))[:3]:
        Image.open(source).resize((480, 480)).save(folder / f"{source.stem}.jpg")
    second = sorted(folder.iterdir())[1]
    second.write_bytes(second.read_bytes()[:2000])
    return folder


@pytest.fixture
def video(tmp_path):
    path = str(tmp_path / "video.avi")
    writer = VideoWriter(path, 5.0)
    random = np.random.default_rng(0)
    for _ in range(8):
        writer.write("", random.integers(0, 256, (96, 480, 3), dtype=np.uint8))
    writer.close()
    return path


def test_images_are_drawn_and_a_bad_one_is_counted(demo, images, tmp_path):
    output = tmp_path / "out"
    printed = demo(images, "--gflops", 5, "--output", output, "--min-score", 0)
    first, _, third = sorted(images.iterdir())
    line = r": 0.50x48, 4 of 5 GFLOPs, [\d.]+ ms, \d+ objects?\n"
    last = re.escape(f"2 of 3 images done, in {output}.\n")
    assert re.fullmatch(f"{first}{line}{third}{line}{last}", printed.out)
    assert re.match(r"error: The image .* cannot be decoded: .*truncated", printed.err)
    assert [file.name for file in sorted(output.iterdir())] == [first.name, third.name]
    for name in (first.name, third.name):
        drawn, plain = (np.asarray(Image.open(f / name)).astype(int) for f in (output, images))
        assert drawn.shape == plain.shape
        # Boxes and names; JPEG alone changes little.
        assert (np.abs(drawn - plain) > 60).mean() > 0.02


def test_names_are_those_of_the_query_table(demo, images, tmp_path, monkeypatch):
    """The data set of the model's config need not be there."""
    given = []

    def draw(image, instances, names, **options):
        given.append(names)
        return image

    monkeypatch.setattr(tool, "draw_detections", draw)
    demo(sorted(images.iterdir())[0], "--output", tmp_path / "out")
    assert given == [("circle", "square", "triangle")]


def test_all_images_are_bad(demo, images):
    with pytest.raises(UserError, match="None of 1 images could be used"):
        demo(sorted(images.iterdir())[1], "--clamp", "--gflops", 1)


def test_a_video_gets_its_pictures_and_the_deadlines_a_report(demo, video, tmp_path):
    output = tmp_path / "out.mp4"
    printed = demo(video, "--period", 30, "--output", output)
    lines = printed.out.splitlines()
    shown = [line for line in lines if line.startswith("frame")]
    assert re.match(r"frame 1: 0.25x32, 2 GFLOPs, [\d.]+ of 3e\+04 ms, \d+ object", shown[0])
    assert len(shown) < 8  # one a second
    assert lines[-2].startswith("8 of 8 deadlines held (100.0%)")
    assert lines[-1] == f"8 of 8 frames done, in {output}."
    source = VideoFrames(str(output))
    assert source.frame_rate == 5
    frames = list(source)
    assert len(frames) == 8
    # The text on dark ground in the lower left corner.
    assert all(frame[-12:, :150].mean() < 90 < frame[:12].mean() for _, frame in frames)


def test_ctrl_c_ends_a_stream_with_its_report(demo, video, tmp_path, monkeypatch):
    capture = cv2.VideoCapture

    class Interrupted:
        def __init__(self, source):
            self.capture, self.left = capture(source), 3

        def read(self):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return self.capture.read()

        def get(self, key):
            return self.capture.get(key)

        def release(self):
            self.capture.release()

    monkeypatch.setattr(cv2, "VideoCapture", Interrupted)
    output = tmp_path / "out.mp4"
    lines = demo(video, "--period", 30, "--output", output).out.splitlines()
    assert lines[-3] == "Stopped." and lines[-2].startswith("3 of 3 deadlines held")
    monkeypatch.undo()
    assert len(list(VideoFrames(str(output)))) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--gflops", "1"], BudgetError, "The cheapest, 0.25x32, costs 2 GFLOPs"),
        (["--milliseconds", "9"], BudgetError, "The cheapest, 0.25x32, costs 10 ms"),
        (["--milliseconds", "9", "--latency-device", "board"], BudgetError, "'board'"),
        (["--point", "0.3x64"], PredictorError, "0.30x64 is not calibrated"),
        (["--output", "there"], SourceError, r"is there already\. .* --overwrite"),
    ],
)
def test_errors_of_budgets_and_outputs(
    demo, images, tmp_path, monkeypatch, arguments, error, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / sorted(images.iterdir())[0].name).write_text("mine")
    with pytest.raises(error, match=message):
        demo(images, *arguments)


def test_what_is_there_is_replaced_if_told(demo, images, tmp_path):
    first = sorted(images.iterdir())[0]
    (tmp_path / first.name).write_text("mine")
    demo(first, "--output", tmp_path, "--overwrite", "--point", "0.5x48")
    assert Image.open(tmp_path / first.name).size == (480, 480)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clamp"], "--clamp needs --gflops or --milliseconds"),
        (["--clamp", "--period", "1"], "--clamp needs --gflops or --milliseconds"),
        (["--gflops", "1", "--milliseconds", "1"], "not allowed with"),
    ],
)
def test_options_that_do_not_go_together(arguments, message, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(["model", "images", *arguments])
    assert message in capsys.readouterr().err

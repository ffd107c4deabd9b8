"""Exporting an operating point: what is written finds what the model finds, or nothing is kept."""

import pytest
import torch

from mutualnet_det.runtime.export import FORMATS, ExportError, detectron2, export_point, onnx
from mutualnet_det.runtime.pretrained import PredictorError
from mutualnet_det.slimmable import OperatingPoint, SlimmableLayer, sliced

HALF = OperatingPoint(0.5, 48)


@pytest.fixture
def check(seen, source_finds, assert_same):
    """Compares what is in a folder with its source on files, the first one without an object."""

    def check_folder(model, point, name, folder, files):
        run = FORMATS[name].load(folder)
        counts = []
        for file in files:
            image, size = seen(model.cfg, file, point.resolution)
            (expected,) = source_finds(model, point, [image])
            assert_same(expected, run([image])[0], size)
            counts.append(len(expected))
        assert counts[0] == 0 and sum(counts) > 5 * len(files)

    return check_folder


@pytest.mark.parametrize("name", FORMATS)
def test_finds_what_the_source_finds(make_model, exported, check, files, name):
    check(make_model(), HALF, name, exported(name), files[::-1])


@pytest.fixture
def check_photos(make_model, check, photos, photo_pixels, tmp_path):
    """Exports points and compares them on so many photos, the first of a piece of sky."""

    def check_points(points, count):
        empty, *full = photo_pixels
        for point in points:
            model = make_model(empty=empty, full=full, points=(point,))
            for name in FORMATS:
                folder = tmp_path / f"{point}.{name}"
                export_point(model, point, name, folder, photos[:3])
                check(model, point, name, folder, photos[:count])

    return check_points


def test_a_point_finds_what_the_source_finds_on_photos(check_photos):
    check_photos([OperatingPoint(1.0, 64)], 5)


@pytest.mark.slow
@pytest.mark.parametrize("index", range(6))
def test_every_point_finds_what_the_source_finds_on_20_photos(check_photos, points, index):
    check_photos([points[index]], 20)


@pytest.mark.parametrize("name", FORMATS)
def test_is_as_large_as_the_sliced_network(make_model, exported, name):
    model = make_model()
    with model.calibrations.at(HALF):
        plain = sliced(model.model)
    expected = 4 * sum(parameter.numel() for parameter in plain.parameters())
    written = sum(file.stat().st_size for file in exported(name).glob("model.*"))
    # What is not weights: code, and names.
    assert expected * 0.98 < written < expected + 600_000
    assert written < 2 * sum(parameter.numel() for parameter in model.model.parameters())


def test_a_target_that_exists_is_refused_before_any_work(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("folder", "file", "link"):
        with pytest.raises(ExportError, match=f"{name} exists already; nothing is overwritten"):
            export_point(None, HALF, "onnx", tmp_path / name, [])
    assert (tmp_path / "file").read_text() == "precious"
    with pytest.raises(
        ExportError, match="nowhere/at/all cannot be made: .*nowhere/at is no folder"
    ):
        export_point(None, HALF, "onnx", tmp_path / "nowhere/at/all", [])


def test_one_that_differs_leaves_nothing(make_model, files, tmp_path, monkeypatch):
    write = detectron2.write

    def write_wrong(plain, *args):
        with torch.no_grad():
            plain.roi_heads.box_predictor.bbox_pred.bias += 0.05
        write(plain, *args)

    monkeypatch.setattr(detectron2, "write", write_wrong)
    with pytest.raises(
        ExportError, match=r"\.png: the detection of class \d, score 0\.\d+, box \("
    ):
        export_point(make_model(), HALF, "detectron2", tmp_path / "export", files)
    assert list(tmp_path.iterdir()) == []
    # The model itself is as it was.
    monkeypatch.undo()
    export_point(make_model(), HALF, "detectron2", tmp_path / "export", files[:1])


def test_one_that_fails_leaves_nothing(make_model, files, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(detectron2, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        export_point(make_model(), HALF, "detectron2", tmp_path / "export", files)
    assert list(tmp_path.iterdir()) == []


def test_a_point_that_is_not_calibrated_is_refused(make_model, files, tmp_path):
    with pytest.raises(
        PredictorError, match=r"0\.30x64 is not calibrated; calibrated are 0\.25x48"
    ):
        export_point(make_model(), OperatingPoint(0.3, 64), "onnx", tmp_path / "export", files)


def test_packages_that_lack_are_named(make_model, files, tmp_path, monkeypatch):
    find = onnx.importlib.util.find_spec
    monkeypatch.setattr(
        onnx.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    message = r'needs onnxruntime: pip install "mutualnet_det\[export\]"'
    with pytest.raises(ExportError, match=message):
        export_point(make_model(), HALF, "onnx", tmp_path / "export", files)


def test_the_source_stays_as_it_was(make_model, exported):
    model = make_model()
    before = {name: x.clone() for name, x in model.model.state_dict().items()}
    exported("torchscript")
    assert any(isinstance(module, SlimmableLayer) for module in model.model.modules())
    after = model.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())

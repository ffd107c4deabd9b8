"""Calibration on the training images, as evaluation sees them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from PIL import Image

from mutualnet_det.calibration import (
    calibrate_points,
    calibration_batches,
    calibration_images,
)
from mutualnet_det.config import ConfigError
from mutualnet_det.data.coco import check_datasets
from mutualnet_det.data.faults import DatasetError
from mutualnet_det.slimmable import Calibrations, OperatingPoint, SlimmableBatchNorm2d, at_width

POINT = OperatingPoint(0.5, 48)


@pytest.fixture
def cfg(training_cfg):
    check_datasets(training_cfg)
    return training_cfg


def folder(cfg):
    return Path(cfg.DATASETS.COCO_FORMAT[0][2])


def test_images_are_training_images_and_always_the_same(cfg):
    cfg.MUTUALNET.CALIBRATION.NUM_IMAGES = 5
    images = calibration_images(cfg)
    assert len(images) == 5
    known = {read_image(str(path), format="RGB").tobytes() for path in folder(cfg).glob("*.jpg")}
    assert len({image.tobytes() for image in images}) == 5
    assert {image.tobytes() for image in images} <= known
    np.random.rand(3)
    again = calibration_images(cfg)
    assert all(np.array_equal(one, other) for one, other in zip(images, again, strict=True))
    cfg.SEED = 7  # of the training; a point calibrated by another program sees the same images
    assert calibration_images(cfg)[0].tobytes() == images[0].tobytes()


def test_all_images_where_there_are_fewer(cfg):
    cfg.MUTUALNET.CALIBRATION.NUM_IMAGES = 100
    assert len(calibration_images(cfg)) == 12


def test_channel_order_is_the_configs(cfg):
    rgb = calibration_images(cfg)[0]
    cfg.INPUT.FORMAT = "BGR"
    assert np.array_equal(calibration_images(cfg)[0], rgb[:, :, ::-1])


def test_batches_are_resized_as_evaluation_does(cfg):
    random = np.random.default_rng(0)
    sizes = ((50, 100), (90, 70), (8, 99))
    images = [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    cfg.INPUT.MAX_SIZE_TEST = 80
    batches = calibration_batches(cfg, images, 48)
    assert [len(batch) for batch in batches] == [2, 1]
    # 48 x 96 is too long; 8 x 99 shrinks to a short side of 6 px.
    shapes = [tuple(item["image"].shape) for batch in batches for item in batch]
    assert shapes == [(3, 40, 80), (3, 62, 48), (3, 6, 80)]
    expected = T.ResizeShortestEdge(48, 80).get_transform(images[1]).apply_image(images[1])
    assert np.array_equal(batches[0][1]["image"].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(
    "count, sizes", [(16, [8, 8]), (17, [6, 6, 5]), (9, [5, 4]), (8, [8]), (3, [3])]
)
def test_no_batch_is_short(cfg, count, sizes):
    """Each counts as much as any other, so nothing may be left over for the last."""
    cfg.MUTUALNET.CALIBRATION.BATCH_SIZE = 8
    images = [np.full((40, 40, 3), value, np.uint8) for value in range(count)]
    batches = calibration_batches(cfg, images, 32)
    assert [len(batch) for batch in batches] == sizes
    order = [int(item["image"][0, 0, 0]) for batch in batches for item in batch]
    assert order == list(range(count))


def test_a_map_of_one_pixel_in_a_batch_of_one_is_named(cfg):
    cfg.MUTUALNET.CALIBRATION.BATCH_SIZE = 1
    cfg.INPUT.MAX_SIZE_TEST = 32
    model = build_model(cfg)
    with pytest.raises(ConfigError, match=r"0\.50x32 cannot .*BATCH_SIZE is 1 and NUM_IMAGES 4"):
        calibrate_points(cfg, model, Calibrations(model), [OperatingPoint(0.5, 32)])


def test_images_of_like_shape_share_a_batch(cfg, monkeypatch):
    sizes = iter([(50, 100), (100, 50), (51, 100), (100, 51)])
    monkeypatch.setattr(
        "mutualnet_det.calibration.read_record", lambda *_: np.zeros((*next(sizes), 3))
    )
    assert [image.shape[:2] for image in calibration_images(cfg)] == [
        (50, 100),
        (51, 100),
        (100, 51),
        (100, 50),
    ]


def test_statistics_of_a_point(cfg):
    model = build_model(cfg)
    calibrations = Calibrations(model)
    calibrate_points(cfg, calibrations.model, calibrations, [POINT])

    seen = []
    norm = model.backbone.bottom_up.features[0][1]
    hook = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.train()
    with torch.no_grad(), at_width(model, 0.5, track=False):
        for batch in calibration_batches(cfg, calibration_images(cfg), 48):
            model.backbone(model.preprocess_image(batch).tensor)
    hook.remove()
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen]).mean(0)
    name = "backbone.bottom_up.features.0.1"
    statistics = calibrations.state_dict()["points"][str(POINT)][name]
    torch.testing.assert_close(statistics[0], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics[1], variance, rtol=1e-4, atol=1e-5)


def test_the_model_is_left_as_it_was(cfg):
    model = build_model(cfg).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    calibrations = Calibrations(model)
    calibrate_points(cfg, calibrations.model, calibrations, [POINT, OperatingPoint(1.0, 32)])
    assert torch.equal(torch.rand(3), expected)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(calibrations) == {POINT, OperatingPoint(1.0, 32)}
    model.eval()
    calibrate_points(cfg, calibrations.model, calibrations, [OperatingPoint(0.25, 32)])
    assert not model.training


def test_norms_in_the_heads_are_calibrated_too(cfg):
    cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"
    model = build_model(cfg)
    calibrations = Calibrations(model)
    calibrate_points(cfg, calibrations.model, calibrations, [POINT])
    norms = [n for n, m in model.named_modules() if isinstance(m, SlimmableBatchNorm2d)]
    assert any(name.startswith("roi_heads.mask_head") for name in norms)
    assert set(calibrations.state_dict()["points"][str(POINT)]) == set(norms)


def test_norms_behind_boxes_are_calibrated_where_nothing_is_found_yet(cfg):
    cfg.MODEL.ROI_MASK_HEAD.NORM = "BN"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.999
    model = build_model(cfg)
    calibrations = Calibrations(model)
    calibrate_points(cfg, model, calibrations, [POINT])
    statistics = calibrations.state_dict()["points"][str(POINT)]
    assert any(name.startswith("roi_heads.mask_head") for name in statistics)
    assert model.roi_heads.box_predictor.test_score_thresh == 0.999


@pytest.fixture
def broken(cfg, tmp_path):
    """One of 12 images that cannot be read, under a name of its own; returns its path."""
    _, json_file, image_root = cfg.DATASETS.COCO_FORMAT[0]
    for path in folder(cfg).glob("*.jpg"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    name = f"broken_{tmp_path.name}"
    cfg.DATASETS.COCO_FORMAT = [[name, json_file, str(tmp_path)]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.MUTUALNET.CALIBRATION.NUM_IMAGES = 100
    check_datasets(cfg)
    path = tmp_path / "000003.jpg"
    path.write_bytes(b"no image")  # as if it had broken since it was checked
    return path


def test_image_that_does_not_decode_is_named(cfg, broken):
    with pytest.raises(DatasetError, match=str(broken)):
        calibration_images(cfg)


def test_image_that_does_not_decode_is_skipped(cfg, broken, caplog):
    cfg.MUTUALNET.BAD_RECORDS = "skip"
    assert len(calibration_images(cfg)) == 11
    assert str(broken) in caplog.text
    # Another one stands in for it.
    cfg.MUTUALNET.CALIBRATION.NUM_IMAGES = 11
    assert len(calibration_images(cfg)) == 11


def test_no_image_that_decodes(cfg, broken):
    cfg.MUTUALNET.BAD_RECORDS = "skip"
    for path in broken.parent.glob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="None of the 12 training images"):
        calibration_images(cfg)


def test_image_of_another_size_is_named(cfg, broken):
    Image.new("RGB", (50, 60)).save(broken, format="JPEG")
    with pytest.raises(DatasetError, match=str(broken)):
        calibration_images(cfg)


def test_grey_images_are_three_channels(cfg, broken):
    Image.new("L", (96, 96), 128).save(broken)
    assert {image.shape[2] for image in calibration_images(cfg)} == {3}

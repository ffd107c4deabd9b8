"""Augmentations beyond flip and crop: the ground truth goes where the pixels go."""

import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image

from mutualnet_det.config import ConfigError, load_config
from mutualnet_det.data.augmentation import ScaleJitter
from mutualnet_det.data.loader import CheckedMapper, SeededMapper, _pixels_mapper

KEY = "MUTUALNET.AUGMENTATION"
PLACES = [(f"{KEY}.SCALE", "(0.3, 2.5)"), (f"{KEY}.ROTATION", "90"), (f"{KEY}.SCALE", "(1, 1)")]
HEIGHT, WIDTH = 120, 160
LEFT, TOP, RIGHT, BOTTOM = 30, 20, 90, 70


def triangle():
    """Half of the box, (H, W): once turned, it needs less than the turned box does."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    x, y = (x - LEFT) / (RIGHT - LEFT), (y - TOP) / (BOTTOM - TOP)
    return (x > 0) & (y > 0) & (x + y < 1)


@pytest.fixture
def record(tmp_path):
    """A grey image with one white triangle, the class 3 of its pixels, and other pixels' 5."""
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    classes = np.full((HEIGHT, WIDTH), 5, np.uint8)
    image[triangle()], classes[triangle()] = 255, 3
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(classes).save(tmp_path / "classes.png")
    polygon = [LEFT, TOP, RIGHT, TOP, LEFT, BOTTOM]
    annotation = {
        "bbox": [LEFT, TOP, RIGHT, BOTTOM],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": 0,
        "segmentation": [polygon],
    }
    size = {"height": HEIGHT, "width": WIDTH}
    return {"file_name": str(tmp_path / "image.png"), **size, "annotations": [annotation]}


def make_cfg(*options, config="quickstart_shapes"):
    sizes = ("MUTUALNET.RESOLUTIONS", "(96, 64)", "INPUT.MIN_SIZE_TRAIN", "(96,)")
    return load_config(config, [*sizes, "INPUT.MAX_SIZE_TRAIN", "160", *options])


def around(pixels):
    """The box (4,) around what is true of (H, W)."""
    rows, columns = torch.nonzero(pixels, as_tuple=True)
    return torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


@pytest.mark.parametrize("options", PLACES, ids=lambda option: "=".join(option))
@pytest.mark.parametrize("kind", ["polygons", "bitmasks"])
def test_boxes_and_masks_stay_on_their_pixels(record, options, kind):
    if kind == "bitmasks":
        mask = np.asfortranarray(triangle(), np.uint8)
        record["annotations"][0]["segmentation"] = pycocotools.mask.encode(mask)
        options = (*options, "INPUT.MASK_FORMAT", "bitmask")
    mapper = SeededMapper(CheckedMapper(make_cfg(*options), is_train=True))
    boxes = set()
    for seed in range(20):
        item = mapper(record, seed)
        white = item["image"][0] > 180
        assert min(white.shape) == 96  # as without: views are resized from it
        instances = item["instances"]
        if len(instances) == 0:
            assert white.sum() < 10
            continue
        (box,) = instances.gt_boxes.tensor
        assert (box - around(white)).abs().max() < 2.5, seed
        if kind == "bitmasks":
            (mask,) = instances.gt_masks.tensor
            assert (mask != white).float().mean() < 0.03
        boxes.add(tuple(box.tolist()))
    # Flipped alone, there are two.
    assert len(boxes) > 5 or "(1, 1)" in options


@pytest.mark.parametrize(
    "options", [*PLACES[:2], ("INPUT.CROP.ENABLED", "True")], ids=lambda option: "=".join(option)
)
def test_images_without_objects_stay_so(record, options):
    record["annotations"][0]["iscrowd"] = 1
    mapper = SeededMapper(CheckedMapper(make_cfg(*options), is_train=True))
    for seed in range(5):
        instances = mapper(record, seed)["instances"]
        assert len(instances) == 0 and instances.gt_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize("options", PLACES[:2], ids=lambda option: "=".join(option))
def test_filled_pixels_have_the_ignored_class(record, tmp_path, options):
    record["sem_seg_file_name"] = str(tmp_path / "classes.png")
    ignored = "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "255"
    cfg = make_cfg(*options, *ignored, config="mutual_semantic_fpn_mbv2")
    mapper = SeededMapper(_pixels_mapper(cfg))
    filled = 0
    for seed in range(20):
        item = mapper(record, seed)
        image, classes = item["image"].float().mean(dim=0), item["sem_seg"]
        assert set(classes.unique().tolist()) <= {3, 5, 255}
        inside = classes != 255
        # At borders, pixels are of both.
        assert (image[classes == 3] <= 180).sum() <= 0.1 * (classes == 3).sum() + 5
        assert ((image[inside] > 80).float().mean()) > 0.97
        filled += int((~inside).any())
    assert filled > 5


def test_jitter_keeps_the_frame_and_takes_every_part():
    jitter = ScaleJitter((0.1, 3.0), 96, 160, 50.0)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    np.random.seed(0)
    for _ in range(50):
        transforms = jitter.get_transform(image)
        changed = transforms.apply_image(image)
        assert changed.shape == (96, 128, 3)
        resize, crop, _ = transforms.transforms
        part = changed[: crop.h, : crop.w]
        assert (part == 0).all() and (changed == 50).sum() == changed.size - part.size
        assert crop.x0 + crop.w <= resize.new_w and crop.y0 + crop.h <= resize.new_h


def test_colours_change_alone(record):
    names = ("BRIGHTNESS", "CONTRAST", "SATURATION", "LIGHTING")
    flip = "INPUT.RANDOM_FLIP", "none"
    plain = SeededMapper(CheckedMapper(make_cfg(*flip), is_train=True))(record, 0)
    for name in names:
        # Of a grey image, a saturation is none.
        values = np.array(Image.open(record["file_name"]))
        values[..., 2] //= 2
        Image.fromarray(values).save(record["file_name"])
        cfg = make_cfg(*flip, f"{KEY}.{name}", "0.4")
        mapper = SeededMapper(CheckedMapper(cfg, is_train=True))
        items = [mapper(record, seed) for seed in range(3)]
        shades = {tuple(item["image"][:, 0, 0].tolist()) for item in items}
        assert len(shades) == 3, name
        for item in items:
            boxes = item["instances"].gt_boxes.tensor
            assert torch.equal(boxes, plain["instances"].gt_boxes.tensor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((f"{KEY}.BRIGHTNESS", "1.5"), "BRIGHTNESS is 1.5; expected a number from 0 to 1"),
        ((f"{KEY}.ROTATION", "-3"), "ROTATION is -3; expected a number from 0 to 180"),
        ((f"{KEY}.LIGHTING", "-0.1"), "LIGHTING is -0.1; expected at least 0"),
        ((f"{KEY}.SCALE", "(2.0, 0.5)"), r"SCALE is \(2.0, 0.5\); expected \(smallest, largest\)"),
        ((f"{KEY}.SCALE", "(0.0, 0.5)"), r"SCALE is \(0.0, 0.5\); expected \(smallest, largest\)"),
        ((f"{KEY}.SCALE", "(0.5,)"), r"SCALE is \(0.5,\); expected"),
        ((f"{KEY}.LIGHTING", "0.1", "INPUT.FORMAT", "BGR"), "LIGHTING is 0.1; expected 0 where"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        make_cfg(*options)


def test_a_classifier_has_augmentations_of_its_own():
    with pytest.raises(ConfigError, match=r"ROTATION is 5; expected none for a classifier: MUTU"):
        load_config("pretrain_shapes", [f"{KEY}.ROTATION", "5"])


def test_turning_images_needs_opencv(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="ROTATION is 5; expected 0 without OpenCV"):
        make_cfg(f"{KEY}.ROTATION", "5")

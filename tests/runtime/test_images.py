"""Images as users give them: all the same picture, or an error that says what is wrong."""

import io
import math

import numpy as np
import pytest
from detectron2.data import detection_utils
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mutualnet_det.runtime import BudgetPredictor, ImageError, pretrained
from mutualnet_det.runtime.images import read_image

EXIF_ORIENTATION = 0x0112


@pytest.fixture
def pixels():
    """RGB noise of 40 x 70 px."""
    return np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)


def rgb(image):
    pixels, order = read_image(image)
    return pixels if order == "RGB" else pixels[..., ::-1]


def test_file_pil_image_and_bgr_array_are_one_picture(tmp_path, pixels):
    path = tmp_path / "noise.png"
    Image.fromarray(pixels).save(path)
    for image in (path, str(path), Image.fromarray(pixels), pixels[..., ::-1]):
        assert np.array_equal(rgb(image), pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_is_turned_as_exif_says(tmp_path, pixels, orientation):
    path = str(tmp_path / "turned.png")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    expected = detection_utils.read_image(path, format="RGB")
    assert expected.shape[:2] == ((40, 70) if orientation <= 4 else (70, 40))
    for image in (path, Image.open(path)):
        assert np.array_equal(rgb(image), expected)


@pytest.mark.parametrize(
    ("mode", "suffix", "colour", "expected"),
    [
        ("CMYK", "tif", (0, 255, 255, 0), (255, 0, 0)),
        ("L", "png", 77, (77, 77, 77)),
        ("RGBA", "png", (9, 8, 7, 128), (9, 8, 7)),
        ("1", "png", 1, (255, 255, 255)),
    ],
)
def test_other_modes_become_rgb(tmp_path, mode, suffix, colour, expected):
    path = tmp_path / f"image.{suffix}"
    Image.new(mode, (5, 4), colour).save(path)
    pixels = rgb(path)
    assert pixels.shape == (4, 5, 3) and pixels.dtype == np.uint8
    assert (pixels == expected).all()


def test_a_cmyk_jpeg_has_its_colours(tmp_path):
    """Adobe's are stored inverted."""
    path = tmp_path / "image.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    assert np.abs(rgb(path).astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_pixels_of_more_than_8_bits_are_refused(tmp_path, dtype):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((4, 5), 40000, dtype)).save(path)
    with pytest.raises(ImageError, match=r"^The image .*deep\.tif has pixels of more than 8 bits"):
        read_image(path)


def test_a_truncated_file_is_refused(tmp_path, pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "jpeg")
    path = tmp_path / "half.jpg"
    path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    with pytest.raises(ImageError, match=r"half\.jpg cannot be decoded: .*truncated"):
        read_image(path)


def test_files_that_are_no_images_are_refused(tmp_path):
    path = tmp_path / "text.png"
    path.write_text("not a picture")
    with pytest.raises(ImageError, match=r"text\.png cannot be read: it is of no known format"):
        read_image(path)
    with pytest.raises(ImageError, match=r"nowhere\.png cannot be read: No such file"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="cannot be read: Is a directory"):
        read_image(tmp_path)


def test_a_damaged_header_is_refused(tmp_path):
    """Pillow's own errors are of any class: here a ValueError."""
    path = tmp_path / "comment.png"
    comment = PngInfo()
    comment.add_text("comment", "0" * 5_000_000, zip=True)
    Image.new("RGB", (4, 5)).save(path, pnginfo=comment)
    with pytest.raises(ImageError, match=r"^The image .*comment\.png cannot be read: .*too large"):
        read_image(path)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (300, 300)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(ImageError, match=r"bomb\.png is too large: .*90000 pixels"):
        read_image(path)


@pytest.mark.parametrize(
    ("array", "described"),
    [
        (np.zeros((4, 5, 3), np.float32), r"\(4, 5, 3\) of float32"),
        (np.zeros((4, 5), np.uint8), r"\(4, 5\) of uint8"),
        (np.zeros((4, 5, 4), np.uint8), r"\(4, 5, 4\) of uint8"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\) of uint8"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"\(1, 4, 5, 3\) of uint8"),
    ],
)
def test_arrays_of_another_kind_are_refused(array, described):
    with pytest.raises(
        ImageError, match=rf"^images\[2\] is an array {described}; expected \(H, W, 3\)"
    ):
        read_image(array, "images[2]")


@pytest.mark.parametrize("image", [np.zeros((0, 5, 3), np.uint8), Image.new("RGB", (5, 0))])
def test_an_empty_image_is_refused(image):
    with pytest.raises(ImageError, match="image is empty: 5 x 0 px"):
        read_image(image)


@pytest.mark.parametrize("kind", ["file", "PIL", "array"])
def test_an_image_that_is_too_large_is_not_decoded(tmp_path, pixels, kind, monkeypatch):
    path = tmp_path / "large.png"
    Image.fromarray(pixels).save(path)
    image = {"file": path, "PIL": Image.open(path), "array": pixels}[kind]
    assert rgb(image).size and read_image(image, "image", 2800)
    image = Image.open(path) if kind == "PIL" else image
    monkeypatch.setattr(Image.Image, "convert", lambda *args: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"has 70 x 40 px; at most 0\.0028 million pixels are"):
        read_image(image, "image", 2799)


@pytest.mark.parametrize("image", [None, b"bytes", [1, 2]])
def test_other_things_are_refused(image):
    with pytest.raises(ImageError, match="expected a path, a PIL image or an array"):
        read_image(image)


# Through the predictor ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor(model_folder):
    return BudgetPredictor.from_pretrained(model_folder, device="cpu")


@pytest.mark.parametrize("size", [(1, 90), (90, 1), (1, 1), (30_000, 1), (1, 30_000), (30_000, 40)])
def test_the_predictor_takes_files_of_extreme_sizes(predictor, tmp_path, size):
    """The short side of the network's input would round to 0; it is 1 px."""
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path = tmp_path / "extreme.png"
    Image.fromarray(noise).save(path)
    for entry in predictor.table.entries:
        instances = predictor(path, point=entry.point).instances
        assert instances.image_size == size
        assert instances.pred_masks.shape == (len(instances), *size)
        boxes, (height, width) = instances.pred_boxes.tensor, size
        assert ((boxes >= 0) & (boxes <= boxes.new_tensor([width, height] * 2))).all()


def test_the_predictor_takes_cmyk(predictor, tmp_path, pixels):
    path = tmp_path / "print.tif"
    Image.fromarray(pixels).convert("CMYK").save(path)
    actual = predictor(path).instances
    expected = predictor(Image.fromarray(pixels)).instances
    assert len(actual) == len(expected) > 0
    assert np.allclose(actual.scores, expected.scores, atol=1e-4)


@pytest.mark.parametrize("bad", ["truncated", "16 bits", "bomb"])
def test_the_predictor_refuses_bad_images(predictor, tmp_path, pixels, bad, monkeypatch):
    path = tmp_path / "bad.png"
    if bad == "16 bits":
        Image.fromarray(np.full((4, 5), 40000, np.uint16)).save(path)
    else:
        Image.fromarray(pixels).save(path)
    if bad == "truncated":
        path.write_bytes(path.read_bytes()[:4000])
    elif bad == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    message = {"truncated": "cannot be decoded", "16 bits": "more than 8 bits", "bomb": "too large"}
    with pytest.raises(ImageError, match=rf"^The image .*bad\.png .*{message[bad]}"):
        predictor(path)
    assert len(predictor(Image.fromarray(pixels)).instances) > 0


def test_the_predictor_takes_images_whose_masks_fit_into_memory(
    predictor, model_folder, tmp_path, pixels, monkeypatch
):
    """100 masks at a byte for each of their pixels; without masks any size."""
    assert predictor.max_pixels == 80_000_000
    monkeypatch.setattr(pretrained, "MAX_OUTPUT", 100 * 2799)
    small = BudgetPredictor.from_pretrained(model_folder, device="cpu")
    path = tmp_path / "large.png"
    Image.fromarray(pixels).save(path)
    for image, name in ((path, r"The image .*large\.png"), (pixels, "The image")):
        with pytest.raises(ImageError, match=f"^{name} has 70 x 40 px; at most 0.0028 million"):
            small(image)
    assert len(small(pixels[1:]).instances) > 0
    cfg = predictor.cfg.clone()
    cfg.defrost()
    cfg.MODEL.MASK_ON = False
    assert pretrained.max_pixels(cfg) == math.inf
    # Four bytes for each score of a class.
    cfg.MODEL.META_ARCHITECTURE = "MutualPanopticFPN"
    assert pretrained.max_pixels(cfg) == 100 * 2799 / (4 * 54)

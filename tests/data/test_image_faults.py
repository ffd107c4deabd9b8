"""Image files, read before any long work: what is wrong with them, and what is left out."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from mutualnet_det.data import image_faults
from mutualnet_det.data.image_faults import (
    DatasetError,
    Known,
    check_images,
    each_of,
    image_fault,
    know,
    read_header,
    unusable_files,
    with_usable_images,
)

WIDTH, HEIGHT = 60, 40


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(image_faults, "KNOWN", Known({}, image_faults.defaultdict(set), set()))


def encoded(format, *, mode="RGB", size=(WIDTH, HEIGHT), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format, **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded("JPEG", exif=exif)


def deep(format):
    file = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(file, format)
    return file.getvalue()


def damaged(content):
    """A file whose begin and end are whole."""
    middle = len(content) // 2
    return content[:middle] + bytes(40) + content[middle + 40 :]


@pytest.fixture
def record(tmp_path):
    """Writes an image file; returns its record."""

    def record(content, name="a.jpg"):
        (tmp_path / name).write_bytes(content)
        return {"file_name": str(tmp_path / name), "width": WIDTH, "height": HEIGHT}

    return record


@pytest.mark.parametrize(
    "content",
    [
        encoded("JPEG"),
        encoded("JPEG") + bytes(100),  # as some cameras and phones leave it
        encoded("JPEG", mode="CMYK"),
        encoded("JPEG", mode="L", progressive=True),
        encoded("PNG"),
        encoded("PNG", mode="P"),
        encoded("PNG", mode="LA"),
        encoded("PNG", mode="1"),
        encoded("BMP"),
        encoded("GIF"),
        encoded("TIFF"),
        encoded("WEBP"),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("decode", [False, True])
def test_images_that_can_be_used(content, decode, record):
    assert image_fault(record(content), decode=decode) is None


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"", "files that are no images", "no format"),
        (b"version https://git-lfs.github.com/spec/v1", "files that are no images", "no format"),
        (encoded("JPEG")[:900], "images that cannot be read", "truncated"),
        (encoded("PNG")[:900], "images that cannot be read", ""),
        (encoded("JPEG", size=(50, 40)), "images of another size", "50 x 40 px, not 60 x 40"),
        (turned(), "images of another size", "40 x 60 px as its EXIF orientation turns it, not 60"),
        (deep("PNG"), "images of more than 8 bits", "I;16"),
        (deep("TIFF"), "images of more than 8 bits", "I;16"),
    ],
)  # fmt: skip
def test_images_that_cannot_be_used(content, kind, reason, record):
    fault = image_fault(record(content))
    assert kind in fault.kind and reason in fault.reason


def test_more_pixels_than_pillow_takes(record, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    fault = image_fault(record(encoded("PNG")))
    assert fault.kind.startswith("images of more than 0 million pixels, to be cut into tiles")
    assert "2400 pixels" in fault.reason


def test_a_file_that_is_not_there(tmp_path):
    fault = image_fault({"file_name": str(tmp_path / "none.jpg")})
    assert fault.kind == "images that cannot be read" and "No such file" in fault.reason


def test_damage_inside_is_found_by_decoding(record):
    broken = record(damaged(encoded("PNG")))
    assert image_fault(broken) is None
    assert image_fault(broken, decode=True).kind == "images that cannot be read"


def test_a_turned_image_has_the_size_that_it_is_read_with(record):
    fine = {**record(turned()), "width": HEIGHT, "height": WIDTH}
    assert image_fault(fine) is None
    header = read_header(fine["file_name"])
    assert (header.width, header.height, header.is_turned) == (HEIGHT, WIDTH, True)


def test_pixels_are_not_decoded_to_find_a_png_turned(record, monkeypatch):
    png = record(encoded("PNG"), "a.png")
    monkeypatch.setattr(Image.Image, "load", None)
    assert image_fault(png) is None


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 500])
def test_work_in_threads_keeps_the_order(count):
    assert list(each_of(lambda x: 2 * x, range(count), "Doubling")) == list(range(0, 2 * count, 2))


@pytest.fixture
def three(record):
    """Three records; the second one's image is damaged inside, the third one's is turned."""
    return [
        record(encoded("PNG"), "a.png"),
        record(damaged(encoded("PNG")), "b.png"),
        record(turned(), "c.jpg"),
    ]


def test_an_error_names_them(three):
    with pytest.raises(DatasetError, match=r"'mine' has images .*\n.*another size.*: 1 \(.*c.jpg"):
        check_images("mine", three, "error")
    with pytest.raises(DatasetError, match=r"read: 1 \(.*b.png"):
        check_images("mine", three, "error", decode=True)
    with pytest.raises(DatasetError, match=r"no image that can be used"):
        check_images("mine", three[2:], "skip")


def test_they_are_left_out_once_known(three, caplog):
    assert with_usable_images(three) == three
    with caplog.at_level(logging.WARNING):
        check_images("mine", three, "skip")
        assert with_usable_images(three) == three[:2]
        check_images("mine", with_usable_images(three), "skip", decode=True)
    assert with_usable_images(three) == three[:1]
    assert [path[-5:] for path in unusable_files("mine")] == ["b.png", "c.jpg"]
    assert "left out images" in caplog.text and "c.jpg" in caplog.text


def test_files_are_read_once_but_for_those_that_may_be_corrected(three, record, monkeypatch):
    check_images("mine", three, "skip", decode=True)
    read = []
    fault = image_faults.image_fault
    monkeypatch.setattr(
        image_faults,
        "image_fault",
        lambda r, **k: read.append(r["file_name"][-5:]) or fault(r, **k),
    )
    record(encoded("JPEG"), "c.jpg")
    check_images("mine", three, "skip")
    assert sorted(read) == ["b.png", "c.jpg"]
    assert with_usable_images(three) == [three[0], three[2]]


def test_another_process_is_told(three, monkeypatch):
    check_images("mine", three, "skip", decode=True)
    told = image_faults.KNOWN
    monkeypatch.setattr(image_faults, "KNOWN", Known({}, image_faults.defaultdict(set), set()))
    know(told)
    assert with_usable_images(three) == three[:1]
    assert image_faults.KNOWN.read == told.read

"""Kinds of bad input, each with what it gets: the table that the page on them is made from."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 60, 40
ERROR, ACCEPTED, LINE = "error", "accepted", "accepted, with a line that counts them"
IMAGE = "1 image and 2 annotations left out"
OBJECT = "1 annotation left out"


class Kind(NamedTuple):
    """
    A kind of bad input.

    Attributes:
        name: for a reader.
        change: makes it, of the content of a sound annotation file and its image folder; a text
            that it returns is the file instead.
        by_default: what it gets.
        skipped: what it gets with ``MUTUALNET.BAD_RECORDS skip``.
    """

    name: str
    change: Callable[[dict, Path], str | bytes | None]
    by_default: str
    skipped: str


def sound(folder: Path) -> dict:
    """4 images with 2 objects each, of 2 classes; the images are written to ``folder``."""
    data: dict = {"images": [], "annotations": []}
    data["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    for number in range(1, 5):
        (folder / f"{number}.png").write_bytes(picture("PNG", seed=number))
        image = {"id": number, "file_name": f"{number}.png", "width": WIDTH, "height": HEIGHT}
        data["images"].append(image)
        for place in range(2):
            x, y = 12 + 22 * place, 8 + 3 * number
            data["annotations"].append(
                {
                    "id": 2 * number + place,
                    "image_id": number,
                    "category_id": 1 + place,
                    "bbox": [x, y, 18, 12],
                    "area": 216,
                    "iscrowd": 0,
                    "segmentation": [[x, y, x + 18, y, x + 18, y + 12, x, y + 12]],
                }
            )
    return data


def picture(format: str, *, size=(WIDTH, HEIGHT), seed=0, **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


# Changes -----------------------------------------------------------------------------------------


def first(key, value, section="annotations"):
    """A change of one field of the first record."""

    def change(data, folder):
        data[section][0][key] = value

    return change


def without(key, section="annotations"):
    def change(data, folder):
        del data[section][0][key]

    return change


def without_section(section):
    return lambda data, folder: data.pop(section) and None


def every(make):
    """A change of all annotations: ``make(annotation)`` gives new fields."""

    def change(data, folder):
        for annotation in data["annotations"]:
            annotation.update(make(annotation))

    return change


def file(content):
    """A change of the first image's file; None: it is deleted."""

    def change(data, folder):
        path = folder / "1.png"
        path.unlink()
        if content is not None:
            path.write_bytes(content())

    return change


def polygon(*points):
    return first("segmentation", [list(points)])


def box_as(make):
    return every(lambda a: {"bbox": make(*a["bbox"])})


def boxes_and_masks(scale):
    """All coordinates by a factor for x and one for y."""

    def make(a):
        x, y = scale
        mask = [v * (y if i % 2 else x) for i, v in enumerate(a["segmentation"][0])]
        return {"bbox": [v * s for v, s in zip(a["bbox"], (x, y, x, y), strict=True)],
                "segmentation": [mask]}  # fmt: skip

    return every(make)


def huge(data, folder):
    data["images"][0].update(width=16000, height=12000)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("JPEG", exif=exif)


def deep():
    content = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(content, "PNG")
    return content.getvalue()


def damaged():
    content = picture("PNG")
    return content[:3000] + bytes(40) + content[3040:]


def text(content):
    return lambda data, folder: content


def rle(counts, size=(HEIGHT, WIDTH)):
    return first("segmentation", {"size": list(size), "counts": counts})


def repeat(section):
    return lambda data, folder: data[section].append(dict(data[section][0]))


def crowds(count):
    def change(data, folder):
        for annotation in data["annotations"][:count]:
            annotation["iscrowd"] = 1

    return change


NAN = float("nan")
KINDS = [
    # The file.
    Kind("an annotation file that is empty", text(""), ERROR, ERROR),
    Kind("one that is cut off", lambda d, f: json.dumps(d)[:200], ERROR, ERROR),
    Kind("one in another encoding than UTF-8", text(b"\xff\xfe\x00"), ERROR, ERROR),
    Kind(
        "one that begins with a byte-order mark",
        lambda d, f: b"\xef\xbb\xbf" + json.dumps(d).encode(),
        ACCEPTED,
        ACCEPTED,
    ),
    Kind("a list instead of sections", text("[]"), ERROR, ERROR),
    Kind("no section of images", without_section("images"), ERROR, ERROR),
    Kind("no section of annotations", without_section("annotations"), ERROR, ERROR),
    Kind("no section of categories", without_section("categories"), ERROR, ERROR),
    Kind("no images", lambda d, f: d.update(images=[], annotations=[]), ERROR, ERROR),
    Kind("no annotations", lambda d, f: d.update(annotations=[]), ERROR, ERROR),
    Kind("no categories", lambda d, f: d.update(categories=[]), ERROR, ERROR),
    Kind("crowds only", crowds(8), ERROR, ERROR),
    # Ids.
    Kind("an image id twice", repeat("images"), ERROR, ERROR),
    Kind("an annotation id twice", repeat("annotations"), ERROR, ERROR),
    Kind("a category id twice", repeat("categories"), ERROR, ERROR),
    Kind("an annotation without an id", without("id"), ERROR, ERROR),
    Kind("an id that is a text", first("id", "7"), ERROR, ERROR),
    Kind("an annotation of an unknown image", first("image_id", 99), ERROR, ERROR),
    Kind("an annotation of an unknown category", first("category_id", 99), ERROR, ERROR),
    Kind("a category without a name", without("name", "categories"), ERROR, ERROR),
    Kind("an image without a file name", without("file_name", "images"), ERROR, ERROR),
    # Images.
    Kind("an image without a width", without("width", "images"), ERROR, IMAGE),
    Kind("a height of 0", first("height", 0, "images"), ERROR, IMAGE),
    Kind("a width that is a text", first("width", "60", "images"), ERROR, IMAGE),
    Kind("a width that is not an integer", first("width", 60.5, "images"), ERROR, IMAGE),
    Kind("another size than the file's", first("width", 61, "images"), ERROR, IMAGE),
    Kind("more pixels than Pillow reads", huge, ERROR, IMAGE),
    Kind(
        "width and height that changed places",
        lambda d, f: d["images"][0].update(width=HEIGHT, height=WIDTH),
        ERROR,
        IMAGE,
    ),
    Kind("an image that EXIF turns on its side", file(turned), ERROR, IMAGE),
    Kind("an image file that is not there", file(None), ERROR, IMAGE),
    Kind(
        "a file name with another extension's case",
        first("file_name", "1.PNG", "images"),
        ERROR,
        IMAGE,
    ),
    Kind(
        "a file name with a folder too much",
        first("file_name", "images/1.png", "images"),
        ERROR,
        IMAGE,
    ),
    Kind("an image file that is empty", file(lambda: b""), ERROR, IMAGE),
    Kind(
        "a pointer of git-lfs instead of an image",
        file(lambda: b"version https://git-lfs.github.com/spec/v1\n"),
        ERROR,
        IMAGE,
    ),
    Kind("an image file that is cut off", file(lambda: picture("PNG")[:900]), ERROR, IMAGE),
    Kind("an image that is damaged inside", file(damaged), ERROR, IMAGE),
    Kind("an image of 16 bits", file(deep), ERROR, IMAGE),
    Kind("a JPEG that is named .png", file(lambda: picture("JPEG")), ACCEPTED, ACCEPTED),
    # Boxes.
    Kind("an annotation without a box", without("bbox"), ERROR, OBJECT),
    Kind("a box of 3 numbers", first("bbox", [1, 2, 3]), ERROR, OBJECT),
    Kind("a box of texts", first("bbox", ["1", "2", "3", "4"]), ERROR, OBJECT),
    Kind("a box with NaN", first("bbox", [NAN, 2, 3, 4]), ERROR, OBJECT),
    Kind("a box without a width", first("bbox", [1, 2, 0, 4]), ERROR, OBJECT),
    Kind("a box with a negative height", first("bbox", [1, 2, 3, -4]), ERROR, OBJECT),
    Kind("a box outside its image", first("bbox", [500, 2, 18, 12]), ERROR, OBJECT),
    Kind(
        "a box that leaves its image by half",
        lambda d, f: d["annotations"][0].update(
            bbox=[50, 10, 20, 20], segmentation=[[50, 10, 70, 10, 70, 30, 50, 30]]
        ),
        LINE,
        LINE,
    ),
    Kind("a box away from its mask", first("bbox", [35, 25, 18, 12]), LINE, LINE),
    Kind("all boxes and masks from 0 to 1", boxes_and_masks((1 / WIDTH, 1 / HEIGHT)), ERROR, ERROR),
    Kind(
        "all boxes from 0 to 1, masks in pixels",
        box_as(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]),
        ERROR,
        ERROR,
    ),
    Kind("all boxes as corners", box_as(lambda x, y, w, h: [x, y, x + w, y + h]), ERROR, ERROR),
    Kind(
        "all boxes by their middles",
        box_as(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]),
        ERROR,
        ERROR,
    ),
    Kind(
        "all boxes with x and y in each other's place",
        box_as(lambda x, y, w, h: [y, x, h, w]),
        ERROR,
        ERROR,
    ),
    Kind("all objects of an image 3 times as large", boxes_and_masks((3, 3)), ERROR, ERROR),
    # Masks.
    Kind("an annotation without a mask", first("segmentation", []), ERROR, OBJECT),
    Kind("no masks at all", every(lambda a: {"segmentation": []}), ERROR, ERROR),
    Kind("a polygon of 2 points", polygon(1, 2, 3, 4), ERROR, OBJECT),
    Kind("a polygon with an odd number of values", polygon(1, 2, 3, 4, 5, 6, 7), ERROR, OBJECT),
    Kind("a polygon with NaN", polygon(1, 2, 3, 4, 5, NAN), ERROR, OBJECT),
    Kind("a polygon that is a point", polygon(20, 20, 20, 20, 20, 20), ERROR, OBJECT),
    Kind("a polygon that is a line", polygon(10, 10, 20, 20, 30, 30), ERROR, OBJECT),
    Kind("a polygon outside its image", polygon(200, 5, 220, 5, 220, 25), ERROR, OBJECT),
    Kind(
        "a polygon that is not in a list", first("segmentation", [1, 2, 3, 4, 5, 6]), ERROR, OBJECT
    ),
    Kind("a mask that is a text", first("segmentation", "polygon"), ERROR, OBJECT),
    Kind("an RLE of another size than its image", rle([9], (3, 3)), ERROR, OBJECT),
    Kind("an RLE that does not fill its image", rle([9]), ERROR, OBJECT),
    Kind("a compressed RLE that is none", rle("garbage"), ERROR, OBJECT),
    Kind("an RLE without a pixel", rle([WIDTH * HEIGHT]), ERROR, OBJECT),
    # Flags.
    Kind("an iscrowd that is null", first("iscrowd", None), ACCEPTED, ACCEPTED),
    Kind("an iscrowd that is true", first("iscrowd", True), ACCEPTED, ACCEPTED),
    Kind("an iscrowd of 2", first("iscrowd", 2), ERROR, OBJECT),
    Kind("no iscrowd", without("iscrowd"), ACCEPTED, ACCEPTED),
    Kind("an object with ignore 1", first("ignore", 1), ERROR, OBJECT),
    Kind("half of the objects as crowds", crowds(4), ACCEPTED, ACCEPTED),
    # Metadata.
    Kind("no area", without("area"), ACCEPTED, ACCEPTED),
    Kind("an area that is no number", first("area", "large"), ACCEPTED, ACCEPTED),
]


INTRODUCTION = """# Bad input

What a detector's data set in COCO's format gets, before training or evaluation starts. What is left
out is left out of training and scoring alike, counted, and named in the log. The tests make each of
these inputs, and this table.
"""


def page() -> str:
    """The page, in Markdown."""
    lines = ["| input | gets | with `MUTUALNET.BAD_RECORDS skip` |", "| --- | --- | --- |"]
    lines += [f"| {kind.name} | {kind.by_default} | {kind.skipped} |" for kind in KINDS]
    return f"{INTRODUCTION}\n{chr(10).join(lines)}\n"

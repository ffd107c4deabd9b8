"""Objects that are cut out of their images."""

import json

import numpy as np
import pytest
from PIL import Image

from mutualnet_det.data.faults import DatasetError
from mutualnet_det.lab.cut_outs import cut_out_objects, square_around


@pytest.fixture
def dataset(tmp_path):
    """A grey image of 100 x 60 px with a white square, and objects: of class, box, crowd."""
    pixels = np.full((60, 100, 3), 90, np.uint8)
    pixels[20:40, 30:50] = 255
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images/a.png")
    objects = [
        *((1, [30, 20, 20, 20], 0), (1, [0, 0, 8, 40], 0), (1, [10, 10, 30, 30], 1)),
        *((2, [60 + n, 10, 20, 20], 0) for n in range(5)),
    ]
    annotations = [
        {"id": n, "image_id": 1, "category_id": c, "bbox": box, "area": 400, "iscrowd": crowd}
        for n, (c, box, crowd) in enumerate(objects, start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 60}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "nothing"}],
    }

    def write(**changes):
        path = tmp_path / "a.json"
        path.write_text(json.dumps(content | changes))
        return str(path), str(tmp_path / "images")

    return write


def test_each_class_has_a_folder_of_its_objects(dataset, tmp_path):
    numbers = cut_out_objects(*dataset(), tmp_path / "out", smallest=10, most=3)
    assert numbers == {"square": 1, "nothing": 3}  # one is narrow, one a crowd
    files = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.jpg")}
    assert files == {"square/1.jpg", "nothing/4.jpg", "nothing/6.jpg", "nothing/8.jpg"}
    pixels = np.asarray(Image.open(tmp_path / "out/square/1.jpg"), int)
    # 20 px of white within 25: the rim is grey.
    assert pixels.shape == (24, 24, 3)
    assert abs(pixels[12, 12] - 255).max() < 5 and abs(pixels[0, 0] - 90).max() < 15


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((40, 20, 20, 8), (38, 12, 62, 36)),
        ((0, 0, 8, 40), (0, 0, 29, 45)),
        ((90, 40, 10, 20), (82, 38, 100, 60)),
    ],
)
def test_the_square_ends_with_the_image(box, window):
    assert square_around(box, (100, 60)) == window


@pytest.mark.parametrize(
    ("names", "smallest", "message"),
    [
        (("square", "nothing"), 30, "a.json has no 'square' of 30 px or more"),
        (("square", "a/b"), 10, "the category 'a/b' cannot be a folder's name"),
        (("square", ".."), 10, "the category '..' cannot be a folder's name"),
    ],
)
def test_nothing_is_written_of_what_cannot_be(dataset, tmp_path, names, smallest, message):
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    files = dataset(categories=categories)
    with pytest.raises(DatasetError, match=message):
        cut_out_objects(*files, tmp_path / "out", smallest=smallest, most=3)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_stays(dataset, tmp_path):
    with pytest.raises(DatasetError, match="images is there already"):
        cut_out_objects(*dataset(), tmp_path / "images", smallest=10, most=3)

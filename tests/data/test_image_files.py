"""Image files: which are there, and which one a wrong name means."""

import pytest

from mutualnet_det.data.faults import DatasetError
from mutualnet_det.data.image_files import ImageFiles


@pytest.fixture
def root(tmp_path):
    for name in ("images/0001.jpg", "images/b.PNG", "0002.jpg", "Deep/er/0003.JPEG"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(tmp_path)


@pytest.mark.parametrize(
    "name, meant",
    [
        (r"images\0001.jpg", "images/0001.jpg"),
        (r"C:\data\train\images\0001.jpg", "images/0001.jpg"),
        ("0001.jpg", "images/0001.jpg"),
        ("./0001.jpg", "images/0001.jpg"),
        ("images/0001.JPG", "images/0001.jpg"),
        ("images/b.png", "images/b.PNG"),
        ("train/0002.jpg", "0002.jpg"),
        ("/somewhere/else/0002.jpeg", "0002.jpg"),
        (r"deep\er\0003.jpg", "Deep/er/0003.JPEG"),
        ("0003.jpg", None),  # two folders down
        ("0004.jpg", None),
        ("", None),
    ],
)
def test_what_a_name_without_a_file_means(root, name, meant):
    files = ImageFiles(root)
    assert name not in files
    assert files.meant_by(name) == meant


def test_names_of_files(root):
    files = ImageFiles(root)
    assert all(name in files for name in ("0002.jpg", "images/0001.jpg", "Deep/er/0003.JPEG"))
    assert "anything" in ImageFiles(None)
    with pytest.raises(DatasetError, match="no image folder nowhere"):
        ImageFiles("nowhere")

"""A changed file is told from the one that an evaluation was begun with."""

import os

import pytest

from mutualnet_det.data.faults import DatasetError
from mutualnet_det.evaluation.identity import files_digest


@pytest.fixture
def paths(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(f"{name} was written")
    return [str(tmp_path / name) for name in "ab"]


@pytest.mark.parametrize("contents", [False, True])
def test_tells_changed_files_apart(paths, contents):
    before = files_digest(paths, contents=contents)
    assert files_digest(paths, contents=contents) == before
    assert files_digest(paths[:1], contents=contents) != before
    assert files_digest(paths[::-1], contents=contents) != before
    with open(paths[1], "a") as file:
        file.write(".")
    assert files_digest(paths, contents=contents) != before


def test_of_the_same_size(paths):
    """What is read is what counts; else the time of modification is."""
    by_contents = files_digest(paths, contents=True)
    by_time = files_digest(paths, contents=False)
    os.utime(paths[1], (0, 0))
    assert files_digest(paths, contents=True) == by_contents
    assert files_digest(paths, contents=False) != by_time
    with open(paths[1], "w") as file:
        file.write("b was altered")
    assert files_digest(paths, contents=True) != by_contents


@pytest.mark.parametrize("contents", [False, True])
def test_a_missing_file_is_named(paths, contents):
    os.unlink(paths[1])
    with pytest.raises(DatasetError, match=f"Cannot evaluate on {paths[1]}"):
        files_digest(paths, contents=contents)

"""Writing a checkpoint whole or not at all, on disks that have no room for it."""

import hashlib
import resource
from pathlib import Path

import pytest
import torch

from mutualnet_det.checkpoint import NotWrittenError, read_checkpoint
from mutualnet_det.checkpoint.writing import write_checkpoint


def content(num_values, value=1.0):
    return {"model": {"weight": torch.full((num_values,), value)}}


def test_the_sum_is_the_files(tmp_path):
    path = tmp_path / "one.pth"
    digest = write_checkpoint(str(path), content(1000))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_checkpoint(str(path))["model"]["weight"].sum() == 1000


def test_full_disk(small_disk):
    path = small_disk(1) / "one.pth"
    write_checkpoint(str(path), content(100_000))
    with pytest.raises(NotWrittenError) as error:
        write_checkpoint(str(path), {**content(300_000), "trainer": [content(2**16)]})
    for text in (str(path), "No space left on device", "needs about 1.4 MiB", "0.6 MiB are free"):
        assert text in str(error.value)
    assert len(read_checkpoint(str(path))["model"]["weight"]) == 100_000
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("lacking", [1, 100, 400, 5000])
def test_a_few_bytes_too_little(tmp_path, lacking):
    """Given a path, torch.save itself notices no failure in the last bytes."""
    path = tmp_path / "one.pth"
    write_checkpoint(str(path), content(5000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size - lacking, before[1]))
    try:
        with pytest.raises(NotWrittenError, match=f"{path} could not be written: File too large"):
            write_checkpoint(str(path), content(5000, value=2.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_checkpoint(str(path))["model"]["weight"][0] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_other_failures_are_what_they_are(tmp_path):
    with pytest.raises(AttributeError):
        write_checkpoint(str(tmp_path / "one.pth"), {"model": lambda: None})
    assert list(Path(tmp_path).iterdir()) == []

"""Files that take their place whole."""

import os
import stat
from pathlib import Path

import pytest

from mutualnet_det.files import replacing


def test_it_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """Else a reboot leaves an empty file under its name."""
    calls = []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", lambda *a: (calls.append("replace"), replace(*a)))
    with replacing(tmp_path / "new" / "a.txt") as file:
        file.write("new")
    assert calls == ["file", "replace", "folder"]
    assert (tmp_path / "new" / "a.txt").read_text() == "new"


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt", "wb") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]

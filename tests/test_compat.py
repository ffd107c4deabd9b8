"""Private names of Detectron2 and torch: they are there, and stand in compat.py alone."""

import importlib
import re
from pathlib import Path

import pytest

import mutualnet_det
from mutualnet_det import compat

PACKAGE = Path(mutualnet_det.__file__).parent
# Modules of theirs as they are imported here, with a private name behind.
PRIVATE = re.compile(
    r"\b(?:torch|detectron2|nn|F|dist|distributed|comm)(?:\.\w+)*\._[a-z]\w*"
    r"|\bfrom (?:torch|detectron2)[\w.]* import .*\b_[a-z]\w*"
)


def resolved(path):
    """What a full path names: attributes of the longest part of it that is a module."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for name in parts[end:]:
            owner = getattr(owner, name)
        return owner
    raise ImportError(path)


@pytest.mark.parametrize("path", compat.NAMES)
def test_the_name_is_there(path):
    try:
        resolved(path)
    except (AttributeError, ImportError) as error:
        version = importlib.import_module(path.split(".")[0]).__version__
        pytest.fail(
            f"{path} is gone in version {version} ({error}). mutualnet_det/compat.py needs another "
            f"way; without it: {compat.NAMES[path]}."
        )


def test_a_name_that_is_gone_fails(monkeypatch):
    monkeypatch.delattr("torch._foreach_norm")
    with pytest.raises(pytest.fail.Exception, match="torch._foreach_norm is gone in version"):
        test_the_name_is_there("torch._foreach_norm")


def test_no_other_module_uses_private_names():
    elsewhere = {
        f"{path.relative_to(PACKAGE)}: {match[0]}"
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("compat.py", "quiet.py")  # where a logger has such a name
        for match in PRIVATE.finditer(path.read_text())
    }
    assert not elsewhere


def test_every_private_name_of_compat_is_listed():
    used = set(re.findall(r"\.(_[a-z]\w+)\(", Path(compat.__file__).read_text()))
    assert used <= {path.rpartition(".")[2] for path in compat.NAMES}

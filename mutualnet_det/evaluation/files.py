"""Writing files so that a kill leaves the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

# Items that are made into text in one go: one by one takes twice as long.
BATCH = 1000


@contextlib.contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO]:
    """Open a file beside ``path`` that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    try:
        with open(draft, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json_list(path: Path, items: Iterable[Any]) -> None:
    """Write what ``json.dump`` makes of a list of the items, with few of them in memory."""
    items = iter(items)
    separator = ""
    with replacing(path) as file:
        file.write("[")
        while batch := list(itertools.islice(items, BATCH)):
            file.write(separator + json.dumps(batch)[1:-1])
            separator = ", "
        file.write("]")

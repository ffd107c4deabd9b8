"""Writing what an evaluation finds, whole or not at all."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import replacing

# Items that are made into text in one go: one by one takes twice as long.
BATCH = 1000


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

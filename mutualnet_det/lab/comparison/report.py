"""Writing the results of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files import replacing
from .figures import write_comparison_figures
from .table import comparison_csv, comparison_text


def write_comparison(record: Mapping[str, Any], folder: Path) -> str:
    """
    Write ``comparison.json``, ``.txt``, ``.md`` and ``.csv`` and the figures.

    Args:
        record: from :func:`~mutualnet_det.lab.comparison.results.collect`.

    Returns:
        the text.
    """
    text = comparison_text(record)
    contents = {
        "json": json.dumps(record, indent=1),
        "txt": text,
        "md": comparison_text(record, markdown=True),
        "csv": comparison_csv(record),
    }
    for ending, content in contents.items():
        with replacing(folder / f"comparison.{ending}") as file:
            file.write(content)
    write_comparison_figures(record, folder)
    return text

"""Yes or no in the records of COCO files, read in one way for training and for scoring."""

from __future__ import annotations

_TEXTS = {"": 0, "0": 0, "false": 0, "1": 1, "true": 1}


def read_flag(value: object) -> int | None:
    """
    A field such as ``iscrowd`` as 0 or 1, None if it is neither.

    No value (null) is 0, as a field that is missing. Tools also write false and true, 0.0 and 1.0,
    and any of these as a text.
    """
    if value is None:
        return 0
    if isinstance(value, str):
        return _TEXTS.get(value.strip().lower())
    return int(value) if value in (0, 1) else None

"""
Checkpoints in a run's folder: which is the last one, which are as they were written.

Beside them stand ``last_checkpoint``, Detectron2's, with the name of the last one, and
``checkpoints.sha256`` with their sums, as ``sha256sum --check`` reads them. A checkpoint without a
sum, such as one copied from elsewhere, is as good as what can be read of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ..files import draft_of, replacing, sha256_of
from .reading import CheckpointError, read_checkpoint

logger = logging.getLogger(__name__)

TAG = "last_checkpoint"
SUMS = "checkpoints.sha256"
# Name of the checkpoint that a finished training ends with.
FINAL = "model_final"
# Name of the one that scored best while it trained. No training goes on from it.
BEST = "model_best"
_NAME = re.compile(rf"model_\d{{7,}}\.pth|{FINAL}\.pth")


def name_of(iteration: int) -> str:
    """Name of the checkpoint of a training after this iteration, without its suffix."""
    return f"model_{iteration:07d}"


def last_checkpoint(folder: Path) -> Path | None:
    """Path of the checkpoint that is marked as the last, whether or not it is there."""
    try:
        name = (folder / TAG).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None
    return folder / name if name else None


def checkpoints(folder: Path, last: Path | None = None) -> list[Path]:
    """
    List the last checkpoint, then those of a training that came before it, newest first.

    Args:
        last: None: the one that is marked. If none is, all of a training are given.
    """
    last = last or last_checkpoint(folder)
    others = sorted((p for p in folder.glob("model_*.pth") if _NAME.fullmatch(p.name)), key=_age)
    if last is None:
        return others
    return [last, *(path for path in others if _age(path) > _age(last))]


def _age(path: Path) -> tuple[int, ...]:
    """Key that sorts the newest first."""
    number = re.search(r"\d+", path.name) if _NAME.fullmatch(path.name) else None
    return (0,) if number is None else (1, -int(number[0]))


def damage(path: Path) -> str:
    """Say what is wrong with a checkpoint; empty if it is as it was written."""
    if not path.is_file():
        return f"{path} is missing"
    expected = _read_sums(path.parent).get(path.name)
    if expected is None:
        try:
            read_checkpoint(str(path))
        except CheckpointError as error:
            return str(error)
    elif sha256_of(path) != expected:
        return (
            f"{path} ({path.stat().st_size} bytes) is not as it was written: its SHA-256 is not "
            f"the one in {SUMS}"
        )
    return ""


def last_good_checkpoint(folder: Path) -> Path | None:
    """
    Find the newest checkpoint that is as it was written, and mark it as the last.

    None where there are no checkpoints. Each that is passed over is named in a warning, with the
    reason.

    Raises:
        CheckpointError: naming all that there are, if none is good.
    """
    reasons = []
    for path in checkpoints(folder):
        reason = damage(path)
        if not reason:
            if reasons:
                logger.warning("Going on from %s instead.", path)
                mark_last(path)
            return path
        logger.warning("%s.", reason.rstrip("."))
        reasons.append(reason)
    if reasons:
        raise CheckpointError(
            f"None of the checkpoints in {folder} can be used: {'; '.join(reasons)}. Put a good "
            "one there, or start anew with another OUTPUT_DIR."
        )
    return None


def check_good(path: Path) -> None:
    """CheckpointError if a checkpoint is not as it was written; names the last one that is."""
    reason = damage(path)
    if not reason:
        return
    earlier = checkpoints(path.parent, path)[1:]
    good = next((other for other in earlier if not damage(other)), None)
    raise CheckpointError(
        f"{reason.rstrip('.')}. "
        + (
            f"{good} is good: train on from it with --resume, or evaluate it as MODEL.WEIGHTS."
            if good
            else "There is no earlier one that is good."
        )
    )


def add_checkpoint(path: Path, file_sum: str, num_kept: int = 0) -> None:
    """
    Mark a checkpoint that has just been written as the last, and remove the oldest.

    Args:
        num_kept: how many stay, this one included; 0: all.
    """
    files = checkpoints(path.parent, path)
    removed = files[num_kept:] if num_kept else []
    add_sum(path, file_sum, without=removed)
    mark_last(path)
    for file in removed:
        file.unlink(missing_ok=True)


def add_sum(path: Path, file_sum: str, without: Sequence[Path] = ()) -> None:
    """Note the sum of a checkpoint that has just been written, and forget those of ``without``."""
    sums = _read_sums(path.parent)
    sums.pop(path.name, None)  # its line becomes the last
    sums[path.name] = file_sum
    gone = {file.name for file in without}
    with replacing(path.parent / SUMS) as file:
        for name, value in sums.items():
            if name not in gone and (path.parent / name).is_file():
                file.write(f"{value}  {name}\n")


def mark_last(path: Path) -> None:
    """Make a checkpoint the one that a training goes on from."""
    with replacing(path.parent / TAG) as file:
        file.write(path.name)


def remove_drafts(folder: Path) -> None:
    """Remove what writes that were killed have left of checkpoints."""
    for draft in folder.glob(draft_of(Path("model_*.pth")).name):
        draft.unlink(missing_ok=True)


def _read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by name; lines that are none are of no use, and are left out."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    pairs = (line.split("  ", 1) for line in lines if "  " in line)
    return {name: value for value, name in pairs}

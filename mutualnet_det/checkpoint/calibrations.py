"""
Calibrations kept apart from the weights: those an evaluation made that the checkpoint lacks.

The file is a checkpoint without weights::

    {
        "model": {},
        "calibrations": {"fingerprint": str, "points": {"0.50x360": {layer: [mean, variance]}}},
        "settings": {"DATASETS.TRAIN": [...], "MUTUALNET.CALIBRATION.NUM_IMAGES": 128, ...},
    }

``calibrations`` is what ``Calibrations.state_dict`` gives, as in a detector's checkpoint;
``fingerprint`` tells the weights. ``settings`` are the config keys that statistics depend on, as
they read back from JSON; whoever uses the statistics as they are need not look at them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..slimmable import Calibrations, OperatingPoint, StaleCalibrationError
from .reading import CheckpointError, read_checkpoint
from .writing import write_checkpoint

# Beside grid.json, or beside the weights where they are deployed.
CALIBRATIONS_FILE = "calibrations.pth"


def write_calibrations(
    path: str, calibrations: Calibrations, points: Collection[OperatingPoint], settings: dict
) -> None:
    """Write the calibrations of ``points``, whole or not at all."""
    state = calibrations.state_dict()
    names = {str(point) for point in points}
    state["points"] = {name: kept for name, kept in state["points"].items() if name in names}
    write_checkpoint(path, {"model": {}, "calibrations": state, "settings": settings})


def read_calibrations(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Returns:
        the state of the calibrations, see ``Calibrations.state_dict``, and the settings.

    Raises:
        CheckpointError: naming the file, if it is missing, truncated or not of this kind.
    """
    content = read_checkpoint(path)
    state, settings = content.get("calibrations"), content.get("settings")
    if not isinstance(settings, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no calibrations that an evaluation kept.")
    if not isinstance(state.get("fingerprint"), str) or not isinstance(state.get("points"), dict):
        raise CheckpointError(f"{path}: its 'calibrations' lack the fingerprint or the points.")
    return state, settings


def add_calibrations(calibrations: Calibrations, path: str) -> None:
    """
    Add the operating points of a file that ``calibrations`` lacks.

    Raises:
        CheckpointError: naming the file, if it is none, or of other weights.
    """
    state, _ = read_calibrations(path)
    known = {str(point) for point in calibrations}
    points = {name: kept for name, kept in state["points"].items() if name not in known}
    try:
        calibrations.load_state_dict({**state, "points": points})
    except StaleCalibrationError as error:
        raise CheckpointError(
            f"{path} was made with other weights than the model's: take the one of its own "
            f"evaluation, or evaluate the model anew with `mutualnet evaluate`. ({error})"
        ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not fit the model: {error}") from error

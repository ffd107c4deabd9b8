"""Reading and writing checkpoints: safely, strictly, with what the weights were trained for."""

from .calibrations import (
    CALIBRATIONS_FILE,
    add_calibrations,
    read_calibrations,
    write_calibrations,
)
from .checkpointer import CheckpointError, MutualCheckpointer, find_weights, load_detector
from .exporting import export_backbone
from .importing import ImportReport, import_backbone
from .provenance import FINE_TUNE, check_provenance, provenance
from .reading import read_checkpoint
from .run_folder import BEST, FINAL, checkpoints, last_checkpoint, last_good_checkpoint, name_of
from .writing import NotWrittenError

__all__ = [
    "BEST",
    "CALIBRATIONS_FILE",
    "FINAL",
    "FINE_TUNE",
    "CheckpointError",
    "ImportReport",
    "MutualCheckpointer",
    "NotWrittenError",
    "add_calibrations",
    "check_provenance",
    "checkpoints",
    "export_backbone",
    "find_weights",
    "import_backbone",
    "last_checkpoint",
    "last_good_checkpoint",
    "load_detector",
    "name_of",
    "provenance",
    "read_calibrations",
    "read_checkpoint",
    "write_calibrations",
]

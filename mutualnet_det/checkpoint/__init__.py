"""Reading and writing checkpoints: safely, strictly, with what the weights were trained for."""

from .checkpointer import CheckpointError, MutualCheckpointer, find_weights, load_detector
from .provenance import check_provenance, provenance
from .reading import read_checkpoint

__all__ = [
    "CheckpointError",
    "MutualCheckpointer",
    "check_provenance",
    "find_weights",
    "load_detector",
    "provenance",
    "read_checkpoint",
]

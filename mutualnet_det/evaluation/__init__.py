"""Cost and accuracy of a trained model at every operating point of a grid."""

from .grid import evaluate_grid
from .results import Grid, GridRow
from .scoring import KINDS

__all__ = ["KINDS", "Grid", "GridRow", "evaluate_grid"]

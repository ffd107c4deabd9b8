"""Training: operating points, the training step, hooks, resume."""

from .calibration import calibrate_points
from .trainer import MutualTrainer

__all__ = ["MutualTrainer", "calibrate_points"]

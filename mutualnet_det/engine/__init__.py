"""Training: operating points, the training step, hooks, resume."""

from .calibration import calibrate_points
from .run import run
from .setup import setup
from .trainer import MutualTrainer, check_start

__all__ = ["MutualTrainer", "calibrate_points", "check_start", "run", "setup"]

"""Training: operating points, the training step, hooks, resume."""

from .run import run
from .setup import setup
from .trainer import MutualTrainer, check_start

__all__ = ["MutualTrainer", "check_start", "run", "setup"]

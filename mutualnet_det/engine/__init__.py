"""Training: operating points, the training step, hooks, resume."""

from .run import run
from .setup import setup
from .trainer import MutualTrainer

__all__ = ["MutualTrainer", "run", "setup"]

"""
MutualNet for detection and segmentation: one set of weights that runs at any width and resolution.

Importing the package registers its backbones, heads, meta-architecture and generated data sets with
Detectron2.
"""

import os

from . import quiet  # noqa: F401  (before Detectron2)

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "mutualnet_det needs Detectron2, which no package index carries: run "
        "`mutualnet install-detectron2`."
    ) from error

from . import modeling  # noqa: F401  (registers)
from .config import add_mutualnet_config, load_config
from .data.classification import register_builtin
from .data.shapes import register_shapes
from .evaluation import evaluate_grid
from .runtime import (
    BudgetPredictor,
    DeadlineController,
    QueryTable,
    export,  # noqa: F401  (registers)
)
from .slimmable import OperatingPoint

_root = os.environ.get("DETECTRON2_DATASETS", "datasets")
register_shapes(_root)
register_builtin(_root)

__version__ = "0.1.0"
# The public API; everything else may move.
__all__ = [
    "BudgetPredictor",
    "DeadlineController",
    "OperatingPoint",
    "QueryTable",
    "add_mutualnet_config",
    "evaluate_grid",
    "load_config",
]

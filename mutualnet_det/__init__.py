"""
MutualNet for detection and segmentation: one set of weights that runs at any width and resolution.

Importing the package registers its backbones, heads, meta-architecture and generated data sets with
Detectron2.
"""

import os

from . import modeling  # noqa: F401  (registers)
from .config import add_mutualnet_config, load_config
from .data.shapes import register_shapes
from .slimmable import OperatingPoint

register_shapes(os.environ.get("DETECTRON2_DATASETS", "datasets"))

__version__ = "0.1.0"
__all__ = ["OperatingPoint", "add_mutualnet_config", "load_config"]

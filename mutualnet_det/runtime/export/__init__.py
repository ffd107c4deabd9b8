"""Export: the plain network of an operating point, in a form that other programs run."""

from .errors import ExportError
from .images import dataset_images
from .point import FORMATS, check_target, export_point
from .verify import Agreement

__all__ = [
    "FORMATS",
    "Agreement",
    "ExportError",
    "check_target",
    "dataset_images",
    "export_point",
]

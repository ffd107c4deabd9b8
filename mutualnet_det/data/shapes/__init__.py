"""Generated data: images of coloured shapes, with what each task needs to learn from them."""

from .classes import register_classes
from .keypoints import register_keypoints
from .objects import register_objects
from .panoptic import register_panoptic
from .semantic import register_semantic


def register_shapes(root: str) -> None:
    """Register all generated data sets, each to be made under ``root`` when first asked for."""
    register_objects(root)
    register_keypoints(root)
    register_panoptic(root)
    register_semantic(root)
    register_classes(root)

"""The package and what its code needs, in ranges a user's own environment is likely to meet.

Exact versions to run and test with stand in requirements.txt. Detectron2 is needed too, but no
package index carries it: tools/install_detectron2.py installs it.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

# What single tools need; the error of a tool names its extra.
EXTRAS = {
    "eval": ["hotcoco>=1.0"],
    "demo": ["opencv-python-headless>=4.5"],
    "export": ["onnx>=1.15", "onnxruntime>=1.17"],
    "serve": ["gradio>=6.27"],
}


def read_version() -> str:
    """The version's one place is `mutualnet_det/__init__.py`."""
    package = Path(__file__).resolve().parent / "mutualnet_det"
    source = (package / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if found is None:
        raise RuntimeError('mutualnet_det/__init__.py lacks a line `__version__ = "..."`')
    return found[1]


setup(
    name="mutualnet_det",
    version=read_version(),
    description="Detection and segmentation with one set of weights for every budget (MutualNet)",
    license="Apache-2.0",
    packages=find_packages(include=["mutualnet_det", "mutualnet_det.*"]),
    package_data={"mutualnet_det.evaluation.report": ["page/*"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.1",
        "torchvision>=0.16",
        "numpy>=1.23",
        "pydantic>=2.5",
        "pycocotools>=2.0.6",
        "pillow>=9.0",
        "matplotlib>=3.6",
        "contourpy>=1.0.1",
        "shapely>=2.0",
        "safetensors>=0.4",
        "scipy>=1.8",
        "fvcore>=0.1.5",
        "iopath>=0.1.9",
        "tabulate>=0.8",
    ],
    extras_require=EXTRAS
    | {
        "all": sorted({each for extra in EXTRAS.values() for each in extra}),
        "dev": ["pytest>=7.4", "pytest-xdist>=3.0", "ruff>=0.5", "timm>=1.0", "playwright>=1.40"],
    },
)

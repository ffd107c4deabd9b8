"""The folders that make up the package; what it is and needs stands in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["mutualnet_det", "mutualnet_det.*"]),
        "mutualnet_det.configs",
        "mutualnet_det.tools",
    ],
    package_dir={"mutualnet_det.configs": "configs", "mutualnet_det.tools": "tools"},
    py_modules=["mutualnet"],
)

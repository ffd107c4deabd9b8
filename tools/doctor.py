#!/usr/bin/env python3
"""
Print what is installed, what fits and what does not, with what to do about the rest.

The exit status is 1 if something that is required does not fit.
"""

# Every check imports what it looks at itself, so that the table comes out whatever is missing.

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "FAIL"
UNKNOWN = "version unknown"
REQUIREMENTS = "pip install -r requirements.txt"
# torch 2.0 came with torchvision 0.15, and every minor version since with the next one.
TORCHVISION_AHEAD = 15
MINIMUM_PYTHON = (3, 10)
PROJECT = "mutualnet_det"


class Finding(NamedTuple):
    """A line of the table; ``advice`` says what to do unless the status is OK."""

    name: str
    state: str
    status: str = OK
    advice: str = ""


class Unusable(Exception):
    """A module that cannot be imported; the message says why."""


def load(name: str) -> ModuleType:
    """Import a module. Whatever stops it (missing, built for another version) is `Unusable`."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        reason = "not installed" if error.name == name.split(".")[0] else first_line(error)
        raise Unusable(reason) from error
    except Exception as error:  # a broken binary raises OSError, RuntimeError, ValueError, ...
        raise Unusable(f"installed, but its import fails: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def version_of(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def numbers(version: str) -> tuple[int, int]:
    """(major, minor) of a version such as 2.11.0+cu130; (0, 0) if it is no such thing."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def check_python() -> Finding:
    version = "{}.{}.{}".format(*sys.version_info[:3])
    if sys.version_info[:2] >= MINIMUM_PYTHON:
        return Finding("Python", f"{version} at {sys.executable}")
    return Finding("Python", version, FAIL, "Make the environment with Python 3.10 or newer.")


def check_torchvision() -> Finding:
    """Torchvision is built for one torch: with another, its import or its compiled ops fail."""
    name = "torchvision"
    torch_version = version_of("torch")
    major, minor = numbers(torch_version)
    partner = (0, minor + TORCHVISION_AHEAD) if major == 2 else None
    advice = f"The pinned pair: {REQUIREMENTS}"
    if partner:
        advice += f'; or, for torch {torch_version}: pip install "torchvision==0.{partner[1]}.*"'
    try:
        version = load(name).__version__
    except Unusable as error:
        return Finding(name, str(error), FAIL, advice)
    if partner and numbers(version) != partner:
        return Finding(name, f"{version}, not made for torch {torch_version}", WARN, advice)
    return Finding(name, version)


def check_torchvision_ops() -> Finding:
    """The two compiled ops that Mask R-CNN needs, run on every kind of device there is."""
    name = "NMS and ROIAlign"
    try:
        torch, ops = load("torch"), load("torchvision.ops")
    except Unusable as error:
        return Finding(name, f"torch or torchvision: {error}", FAIL, "See torchvision above.")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for device in devices:
        try:
            boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]], device=device)
            kept = len(ops.nms(boxes, torch.tensor([0.9, 0.8], device=device), 0.5))
            image = torch.ones(1, 1, 8, 8, device=device)
            value = ops.roi_align(image, [boxes[:1]], 2, aligned=True).mean().item()
        except Exception as error:
            state = f"torchvision's fail on {device}: {first_line(error)}"
            return Finding(name, state, FAIL, f"Install the pinned pair: {REQUIREMENTS}")
        if kept != 1 or abs(value - 1.0) > 1e-4:
            state = f"torchvision's give wrong results on {device}"
            return Finding(name, state, FAIL, f"Install the pinned pair: {REQUIREMENTS}")
    return Finding(name, f"torchvision's, on {' and '.join(devices)}")


def check_numpy() -> Finding:
    name = "NumPy"
    try:
        version = load("numpy").__version__
        torch = load("torch")
    except Unusable as error:
        return Finding(name, f"NumPy or torch: {error}", FAIL, REQUIREMENTS)
    try:
        torch.ones(1).numpy()
    except RuntimeError as error:  # torch before 2.3 was built for NumPy 1
        state = f"{version}, which torch {torch.__version__} cannot use: {first_line(error)}"
        return Finding(name, state, FAIL, 'pip install "numpy<2", or a newer torch.')
    return Finding(name, version)


def check_pycocotools() -> Finding:
    """Encoding a mask runs its compiled part, which fits one binary interface of NumPy."""
    name = "pycocotools"
    advice = "pip install --upgrade --force-reinstall --no-deps pycocotools"
    try:
        mask, numpy = load("pycocotools.mask"), load("numpy")
    except Unusable as error:
        return Finding(name, str(error), FAIL, advice)
    try:
        area = mask.area(mask.encode(numpy.ones((2, 3), dtype=numpy.uint8, order="F")))
    except Exception as error:
        state = f"fails with NumPy {numpy.__version__}: {first_line(error)}"
        return Finding(name, state, FAIL, advice)
    if area != 6:
        return Finding(name, f"counts {area} px in a mask of 6", FAIL, advice)
    return Finding(name, version_of(name))


def check_detectron2() -> Finding:
    name = "Detectron2"
    try:
        package = load("detectron2")
        load("detectron2.modeling")  # most of what it needs is imported from here
        version = package.__version__
    except (Unusable, AttributeError) as error:  # a mere folder of that name has no version
        advice = "mutualnet install-detectron2"
        return Finding(name, first_line(error), FAIL, advice)
    return Finding(name, f"{version} at {Path(package.__file__).parent}")


def check_detectron2_compiled() -> Finding:
    name = "detectron2._C"
    try:
        load("torch")  # the extension finds torch's libraries only after torch is loaded
        load("detectron2")
    except Unusable:
        return Finding(name, "unknown: Detectron2 or torch is missing", WARN, "See above.")
    if importlib.util.find_spec(name) is None:
        return Finding(name, "not compiled (not needed)")
    try:
        load(name)
    except Unusable as error:
        advice = "Not needed here; built for another torch: reinstall Detectron2 to use it."
        return Finding(name, str(error), WARN, advice)
    return Finding(name, "compiled (not needed)")


def check_pkg_resources() -> Finding:
    name = "pkg_resources"
    version = version_of("setuptools")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it announces its own end
            load(name)
    except Unusable as error:
        advice = 'Only detectron2.model_zoo needs it; to use that: pip install "setuptools<82"'
        return Finding(name, f"setuptools {version}: {error}", WARN, advice)
    return Finding(name, f"setuptools {version}")


# Looked at beyond a version that fits, by distribution.
FURTHER: dict[str, Callable[[], Finding]] = {
    "torchvision": check_torchvision,
    "numpy": check_numpy,
    "pycocotools": check_pycocotools,
}


def check_requirement(text: str, extra: str = "") -> Finding:
    """
    Check a requirement of the project: its version, and that it can be imported.

    Args:
        text: as the project's metadata has it, such as "fvcore>=0.1.5".
        extra: the optional one of the project's extras that it belongs to.
    """
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    name, version = requirement.name, version_of(requirement.name)
    note, bad = (f" (optional, extra {extra})", WARN) if extra else ("", FAIL)
    advice = f'pip install "{f"{PROJECT}[{extra}]" if extra else requirement}"'
    if name == "setuptools":
        return check_pkg_resources()  # a newer one does little harm
    if version == UNKNOWN:
        return Finding(name, f"not installed{note}", OK if extra else FAIL, advice)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(name, f"{version}; {requirement.specifier} is needed{note}", bad, advice)
    try:
        load(module_of(name))
    except Unusable as error:
        return Finding(name, f"{error}{note}", bad, advice)
    return FURTHER[name]() if name in FURTHER else Finding(name, f"{version}{note}")


def module_of(distribution: str) -> str:
    """Return the module that a distribution is imported as, such as PIL for pillow."""
    normal = re.compile(re.sub(r"[-_.]+", "[-_.]+", distribution), re.IGNORECASE)
    modules = sorted(
        module
        for module, owners in owners_of_modules().items()
        if not module.startswith("_") and any(map(normal.fullmatch, owners))
    )
    return distribution if distribution in modules or not modules else modules[0]


owners_of_modules = functools.cache(importlib.metadata.packages_distributions)


def check_requirements() -> list[Finding]:
    """Check what the project's metadata asks for: always, and by the extras that `all` names."""
    try:
        from packaging.requirements import Requirement

        requirements = list(map(Requirement, importlib.metadata.requires(PROJECT)))
    except ModuleNotFoundError as error:  # packaging, or the project's metadata
        name = error.name or PROJECT
        install = "--no-deps -e ." if name == PROJECT else name
        advice = f"Without it, requirements are not checked: pip install {install}"
        return [Finding("requirements", f"unknown: {name} is not installed", FAIL, advice)]
    (of_all,) = (each for each in requirements if each.extras and each.name.startswith("mutualnet"))
    findings = []
    for extra in ("", "detectron2", *sorted(of_all.extras - {"detectron2"})):
        for each in requirements:
            if each is of_all:
                continue
            always = each.marker is None or each.marker.evaluate({"extra": ""})
            by_extra = not always and each.marker.evaluate({"extra": extra})
            if by_extra if extra else always:
                optional = "" if extra == "detectron2" else extra
                findings.append(check_requirement(f"{each.name}{each.specifier}", optional))
    return findings


def check_project() -> Finding:
    spec = importlib.util.find_spec(PROJECT)
    if spec is None or spec.origin is None:
        return Finding(PROJECT, "not installed", FAIL, "pip install --no-deps -e .")
    return Finding(PROJECT, f"{version_of(PROJECT)} at {Path(spec.origin).parent}")


def check_cuda() -> Finding:
    name = "CUDA"
    none = "none: everything runs on the CPU"
    try:
        torch = load("torch")
    except Unusable:
        return Finding(name, "unknown: torch is missing", WARN, "See torch above.")
    try:
        gpu = load(f"{PROJECT}.gpu")
    except Unusable as error:
        return Finding(name, f"unknown: {PROJECT}: {error}", WARN, "See above.")
    if not torch.cuda.is_available():
        advice = gpu.why_no_gpu()
        return Finding(name, none, WARN if advice else OK, advice)
    indices = range(torch.cuda.device_count())
    devices = [torch.cuda.get_device_properties(i) for i in indices]
    listed = [
        f"{i}: {d.name} ({d.total_memory >> 30} GiB, compute capability {d.major}.{d.minor})"
        for i, d in enumerate(devices)
    ]
    advice = " ".join(filter(None, map(gpu.why_unsupported, indices)))
    state = f"{torch.version.cuda}; {', '.join(listed)}"
    return Finding(name, state, WARN if advice else OK, advice)


def all_findings() -> list[Finding]:
    """Make every check."""
    checks = (check_torchvision_ops, check_detectron2, check_detectron2_compiled)
    return [
        check_python(),
        *check_requirements(),
        *(check() for check in checks),
        check_project(),
        check_cuda(),
    ]


def table(findings: Iterable[Finding]) -> str:
    """The findings as aligned lines, the advice under each that needs some."""
    findings = list(findings)
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<4}  {finding.name:<{width}}  {finding.state}")
        if finding.advice:
            lines.append(f"{'':<4}  {'':<{width}}  -> {finding.advice}")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog="mutualnet doctor", description=__doc__)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    return build_parser().parse_args(arguments)


def main(args: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries say of themselves when imported
        findings = all_findings()
    print(table(findings))
    failed = [finding.name for finding in findings if finding.status == FAIL]
    if failed:
        print(f"\nDoes not fit: {', '.join(failed)}.")
        return 1
    print("\nEverything required fits.")
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_args()))

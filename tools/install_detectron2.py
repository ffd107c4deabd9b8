#!/usr/bin/env python3
"""
Install Detectron2, which no package index carries, unless one is importable already.

The pure-Python copy that the wheel of LabGym 3.1.2 carries becomes a wheel named detectron2, which
pip lists and can remove. Nothing is compiled: ROIAlign and NMS come from torchvision. What
Detectron2 itself needs is installed where it is missing; what is there and fits stays as it is.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """Examples:

Keep what is there, or install the copy:
    $ mutualnet install-detectron2

Without a download, from a LabGym wheel that is here:
    $ mutualnet install-detectron2 --wheel FILE
"""

DONOR = "LabGym==3.1.2"
DONOR_SHA256 = "a2900cff8a3fb508e1975f19b5f9abd9f261966db87b0c332697fb4138c1cb2b"
DONOR_FOLDER = "LabGym/detectron2/"
DONOR_MODULE = b"LabGym.detectron2"
RENAMED_FILES = 133  # how many files of the copy name the module they were moved to
UPSTREAM = "git+https://github.com/facebookresearch/detectron2.git"

VERSION = "0.6+labgym.3.1.2"
WHEEL_NAME = f"detectron2-{VERSION}-py3-none-any.whl"
DIST_INFO = f"detectron2-{VERSION}.dist-info"
# What the copy imports when it trains and evaluates: of this, what the project itself does not need
# is its extra `detectron2`, in pyproject.toml. `black` and OpenCV are left out: it imports
# them only to dump lazy configs and to draw, and then says so itself.
REQUIRES = (
    "torch>=1.8",
    "torchvision",
    "numpy",
    "setuptools>=77,<82",  # model_zoo imports pkg_resources
    "packaging>=21.0",
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=2.3",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle>=2.0",
    "tqdm>4.29.0",
    "tensorboard>=2.10",
    "fvcore>=0.1.5,<0.1.6",
    "iopath>=0.1.7,<0.1.11",
    "omegaconf>=2.3,<2.4",
    "hydra-core>=1.3",
)
DESCRIPTION = """\
Detectron2 is a product of Meta, under the Apache License 2.0; copyright (c) Facebook, Inc. and its
affiliates. This wheel holds the pure-Python copy of it that the wheel of LabGym 3.1.2 carries. The
files were changed in one way: the package, which LabGym had renamed to `LabGym.detectron2`, is
named `detectron2` again. The compiled extension `detectron2._C` is not included.
"""

PROBE = (
    "import detectron2, detectron2.modeling as m; "
    "print(detectron2.__version__); print(detectron2.__file__)"
)


class InstallError(Exception):
    """Something the user has to act on; the message says what."""


class LackingError(InstallError):
    """Detectron2 is installed, but something that it imports is not."""


def pip(*arguments: str, hint: str) -> None:
    """Runs pip of this very Python; its own messages stay visible, ``hint`` says what to do."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        raise InstallError(f"`{' '.join(command)}` failed (exit {result.returncode}). {hint}")


def find_detectron2() -> str | None:
    """
    The importable Detectron2 as `VERSION at PLACE`, or None.

    A new process looks, so that an installation made a moment ago is seen. It starts in this
    file's folder: a clone named `detectron2` in the user's working folder is no installation.
    """
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=Path(__file__).resolve().parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode == 0:
        version, file = result.stdout.strip().splitlines()[-2:]
        return f"{version} at {Path(file).parent}"
    reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
    missing = re.search(r"No module named '([\w.]+)'", reason)
    if missing is None:
        print(f"The Detectron2 that is installed cannot be imported; replacing it: {reason}")
    elif missing[1].split(".")[0] != "detectron2":
        raise LackingError(f"Detectron2 is installed but cannot be imported: {reason}.")
    return None


def install_requirements() -> None:
    """Installs what Detectron2 needs and lacks; pip leaves alone whatever is there and fits."""
    pip("install", "--quiet", *REQUIRES, hint="pip's message above says why.")


def download_donor(folder: Path) -> Path:
    """Downloads the LabGym wheel into ``folder`` and returns its path."""
    pip(
        *("download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.10"),
        *("--dest", str(folder), DONOR),  # 3.10: its metadata excludes newer ones, this part runs
        hint="Check the network and pip's index settings (`pip config list`); or download the "
        f"wheel of {DONOR} elsewhere and pass it with --wheel FILE.",
    )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise InstallError(f"pip download of {DONOR} left {len(wheels)} wheels in {folder}, not 1.")
    return wheels[0]


def read_donor(wheel: Path) -> dict[str, bytes]:
    """The files of the Detectron2 in a LabGym wheel, under the name `detectron2`, by path."""
    try:
        content = wheel.read_bytes()
    except OSError as error:
        raise InstallError(f"Cannot read the LabGym wheel {wheel}: {error.strerror}.") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != DONOR_SHA256:
        raise InstallError(
            f"{wheel} is not the wheel of {DONOR}: its sha256 is {digest}, not {DONOR_SHA256}. "
            "Nothing was installed. Download it again, or use --upstream."
        )
    files, renamed = {}, 0
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.startswith(DONOR_FOLDER) or name.endswith("/"):
                continue
            data = archive.read(name)
            renamed += DONOR_MODULE in data
            data = data.replace(DONOR_MODULE, b"detectron2")
            if b"labgym" in data.lower():
                raise InstallError(f"{wheel}: {name} still refers to LabGym after the renaming.")
            files["detectron2/" + name[len(DONOR_FOLDER) :]] = data
    if renamed != RENAMED_FILES:
        raise InstallError(f"{wheel}: renamed in {renamed} files, expected {RENAMED_FILES}.")
    return files


def metadata() -> bytes:
    """The wheel's METADATA: what pip shows, and what `pip check` asks for."""
    fields = [
        "Metadata-Version: 2.4",
        "Name: detectron2",
        f"Version: {VERSION}",
        "Summary: Detectron2, the pure-Python copy carried by LabGym 3.1.2",
        "Home-page: https://github.com/facebookresearch/detectron2",
        "License-Expression: Apache-2.0",
        "License-File: LICENSE",
        "Requires-Python: >=3.9",
        *(f"Requires-Dist: {requirement}" for requirement in REQUIRES),
    ]
    return ("\n".join(fields) + "\n\n" + DESCRIPTION).encode()


def license_text() -> str:
    """The project's own licence: Detectron2 has the same one."""
    of_clone = Path(__file__).resolve().parent.parent / "LICENSE"
    if of_clone.is_file():
        return of_clone.read_text(encoding="utf-8")
    return importlib.metadata.distribution("mutualnet_det").read_text("licenses/LICENSE")


def write_wheel(files: dict[str, bytes], folder: Path) -> Path:
    """Writes ``files`` as a wheel into ``folder``; the same files give the same bytes."""
    files = dict(sorted(files.items()))
    files[f"{DIST_INFO}/licenses/LICENSE"] = license_text().encode()
    files[f"{DIST_INFO}/METADATA"] = metadata()
    files[f"{DIST_INFO}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: install_detectron2.py\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(f"{name},{record_hash(data)},{len(data)}\n" for name, data in files.items())
    files[f"{DIST_INFO}/RECORD"] = f"{record}{DIST_INFO}/RECORD,,\n".encode()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # stored: compressors differ in their bytes
        for name, data in files.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o100644 << 16
            archive.writestr(info, data)
    path = folder / WHEEL_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.getvalue())
    except OSError as error:
        raise InstallError(f"Cannot write {path}: {error.strerror}.") from error
    return path


def record_hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return "sha256=" + digest.rstrip(b"=").decode()


def install_copy(wheel: Path | None) -> None:
    """Builds the wheel from ``wheel`` (None: a download) and installs it; pip can remove it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = read_donor(wheel or download_donor(folder))
        pip(
            *("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall"),
            str(write_wheel(files, folder / "built")),
            hint="pip's message above says why.",
        )


def install_upstream() -> None:
    """Compiles the official repository against the torch that is installed."""
    pip(
        # Its set-up imports torch, which an isolated build would not see. Its own list of what it
        # needs might move versions the user has chosen.
        *("install", "--no-build-isolation", "--no-deps", "--force-reinstall", UPSTREAM),
        hint="It needs git, the network, a C++ compiler, setuptools and torch installed first; "
        "without --upstream a pure-Python copy is installed that needs no compiler.",
    )


def run(arguments: argparse.Namespace) -> None:
    if arguments.wheel_dir is not None:
        with tempfile.TemporaryDirectory() as temporary:
            files = read_donor(arguments.wheel or download_donor(Path(temporary)))
        print(f"Wrote {write_wheel(files, arguments.wheel_dir)}")
        return
    try:
        place = find_detectron2()
    except LackingError as error:
        print(f"{error} Installing what it needs.")
        install_requirements()
        place = find_detectron2()
    if place is not None:
        print(f"Keeping Detectron2 {place}")
        return
    if arguments.upstream:
        install_upstream()
    else:
        install_copy(arguments.wheel)
    install_requirements()
    place = find_detectron2()
    if place is None:
        raise InstallError("Detectron2 was installed but cannot be found: is this Python writable?")
    print(f"Installed Detectron2 {place}")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mutualnet install-detectron2",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="a downloaded LabGym wheel")
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument("--wheel-dir", type=Path, metavar="DIR", help="only write the wheel there")
    goal.add_argument("--upstream", action="store_true", help="compile the official repository")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser()
    args = parser.parse_args(arguments)
    if args.upstream and args.wheel is not None:
        parser.error("--wheel is a copy of Detectron2, --upstream builds it: give one of them")
    return args


def main(args: argparse.Namespace) -> int:
    try:
        run(args)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(parse_args()))

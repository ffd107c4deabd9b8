"""A published result: a folder with commands, what they gave, and where it was measured."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import replacing
from ..runtime.device import hardware_name

COMMANDS = "command.sh"
PROVENANCE = "provenance.json"
# What stands in the place of a kept file's source for what the commands print.
PRINTED = "printed"
OUTPUT = "output.txt"
_SCHEMA = 1
_LIBRARIES = ("torch", "torchvision", "detectron2", "numpy", "mutualnet_det")


def record(
    folder: Path,
    *,
    keep: Sequence[str] = (),
    seeds: Sequence[int] = (),
    note: str | None = None,
    done_at: str | None = None,
) -> None:
    """
    Run the commands of a result, in the current folder, and keep what they gave beside them.

    What is not given is as in the folder's last record, so that a study is repeated by its name.

    Args:
        folder: of the result; it holds ``command.sh``, written by hand.
        keep: files to copy from where the commands leave them, and "printed" for what they print
            (``output.txt``). By default that alone.
        seeds: of the runs.
        note: what a reader must know, such as that older code was measured.
        done_at: the commit at which the commands were run already; they are not run again.
    """
    commands = folder / COMMANDS
    if not commands.is_file():
        raise UserError(f"There is no {commands}: write the commands that make the result there.")
    last = read_provenance(folder) if (folder / PROVENANCE).exists() else {}
    sources = {_name(source): source for source in keep} or last.get("files", {OUTPUT: PRINTED})
    if keep and len(sources) < len(keep):
        raise UserError(f"Two of the files to keep have one name: {', '.join(keep)}.")

    commit = done_at or _commit()
    if done_at is None:
        printed = _run(commands)
    elif PRINTED in sources.values():
        raise UserError("What the commands printed is lost: keep files, or let them run again.")
    for name, source in sources.items():
        if source == PRINTED:
            with replacing(folder / name) as file:
                file.write(printed)
        elif not Path(source).is_file():
            raise UserError(f"The commands of {commands} left no {source}.")
        else:
            shutil.copyfile(source, folder / name)
    paths = [Path(source) for source in sources.values() if source != PRINTED]
    made = time.time() if done_at is None else max(path.stat().st_mtime for path in paths)
    provenance = {
        "schema": _SCHEMA,
        "date": time.strftime("%Y-%m-%d", time.gmtime(made)),
        "commit": commit,
        "machine": _machine(),
        "versions": _versions(),
        "seeds": list(seeds) or last.get("seeds", []),
        "files": sources,
        "note": last.get("note", "") if note is None else note,
    }
    with replacing(folder / PROVENANCE) as file:
        file.write(json.dumps(provenance, indent=2, ensure_ascii=False) + "\n")


def read_provenance(folder: Path) -> dict[str, Any]:
    """The content of a result's ``provenance.json``."""
    return json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))


def _name(source: str) -> str:
    return OUTPUT if source == PRINTED else Path(source).name


def _run(commands: Path) -> str:
    """Run a script, show what it prints, and return that without what goes to standard error."""
    printed = []
    with subprocess.Popen(
        ["bash", "-e", str(commands)], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            printed.append(line)
    if process.returncode:
        raise UserError(f"{commands} ended with status {process.returncode}; nothing was recorded.")
    return "".join(printed)


def _commit() -> str:
    """The checkout's commit, and whether files differ from it."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "mutualnet_det", "tools", "configs")
    except (OSError, subprocess.CalledProcessError):
        return "not recorded"
    return f"{commit}, with changes" if changed else commit


def _git(*arguments: str) -> str:
    return subprocess.check_output(["git", *arguments], text=True).strip()


def _machine() -> str:
    cores = os.cpu_count() or 1
    parts = [hardware_name(torch.device("cpu")), f"{cores} core{'s' if cores > 1 else ''}"]
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([*parts, *gpus])


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions

"""Which of a data set's image files are there, and which one a wrong name means."""

from __future__ import annotations

import functools
import itertools
import os
import re

from .faults import DatasetError

# Folders in an image folder that are looked into for what a name may mean.
MAX_FOLDERS = 20


class ImageFiles:
    """
    The files below an image folder. Each folder is listed once: one call, not one per image.

    Args:
        root: the folder; None: every file counts as there.

    Raises:
        DatasetError: if there is no such folder.
    """

    def __init__(self, root: str | None) -> None:
        if root is not None and not os.path.isdir(root):
            raise DatasetError(f"There is no image folder {root}.")
        self._root = root
        self._listed: dict[str, set[str]] = {}
        self._by_lower_case: dict[str, dict[str, str]] = {}

    def __contains__(self, name: str) -> bool:
        if self._root is None:
            return True
        folder, base = os.path.split(os.path.join(self._root, name))
        return base in self._names(folder)

    def meant_by(self, name: str) -> str | None:
        """
        The file that a name without one means, as a path from the root: the separators may be
        Windows', the case another, a folder in it may be too much, or one lack.
        """
        parts = [part for part in re.split(r"[\\/]+", name) if part not in ("", ".")]
        folders = [[], *([folder] for folder in self._inner)]
        tried = (folder + parts[start:] for start in range(len(parts)) for folder in folders)
        return next(filter(None, map(self._but_for_case, tried)), None)

    @functools.cached_property
    def _inner(self) -> list[str]:
        """The folders in the root, the first few by name."""
        root = self._root or ""
        names = sorted(self._names(root))
        inner = (name for name in names if os.path.isdir(os.path.join(root, name)))
        return list(itertools.islice(inner, MAX_FOLDERS))

    def _but_for_case(self, parts: list[str]) -> str | None:
        """The path from the root that differs from one of these parts in case alone."""
        path: list[str] = []
        for part in parts:
            folder = os.path.join(self._root or "", *path)
            if folder not in self._by_lower_case:
                self._by_lower_case[folder] = {_lower(name): name for name in self._names(folder)}
            name = self._by_lower_case[folder].get(_lower(part))
            if name is None:
                return None
            path.append(name)
        return "/".join(path)

    def _names(self, folder: str) -> set[str]:
        if folder not in self._listed:
            self._listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return self._listed[folder]


def _lower(name: str) -> str:
    """A name in lower case, in which .jpeg is .jpg."""
    return re.sub(r"\.jpeg$", ".jpg", name.lower())

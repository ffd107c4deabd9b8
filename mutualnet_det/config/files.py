"""Configs as files: finding, loading and flattening them; folders for results."""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from ..errors import ConfigError
from ..gpu import why_no_gpu
from .checks import check_config, check_device
from .keys import add_mutualnet_config

logger = logging.getLogger(__name__)

# The project's configs: part of an installed package, beside the package in a clone.
_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next(filter(Path.is_dir, (_PACKAGE / "configs", _PACKAGE.parent / "configs")), _PACKAGE)


def find_config(name: str, folder: str = "") -> str:
    """
    Find a config by its path, or one that comes with the project by its name.

    Args:
        name: a path that exists, or a name such as "quickstart_shapes", with ".yaml" or without.
        folder: of the project's configs that the name is of; "lab" for plans.

    Raises:
        ConfigError: if there is neither; the message lists names that are close.
    """
    if Path(name).is_file():
        return name
    configs = {path.stem: str(path) for path in sorted((CONFIGS / folder).glob("*.yaml"))}
    stem = name.removesuffix(".yaml")
    if stem in configs:
        return configs[stem]
    close = difflib.get_close_matches(Path(stem).name, configs) or configs
    raise ConfigError(
        f"There is no file {name}, nor does a config of this name come with the project. "
        f"{'Close are' if close is not configs else 'There are'} {', '.join(close)}."
    )


class _ConfigFiles(CfgNode):  # type: ignore[misc]
    """A config whose ``_BASE_`` may be one of the project's, by its name."""

    @classmethod
    def _open_cfg(cls, filename: str) -> Any:
        if not Path(filename).is_file():
            filename = find_config(Path(filename).name)
        return super()._open_cfg(filename)


def load_config(config_file: str, opts: Sequence[str] | None = None) -> CfgNode:
    """
    A config from a YAML file and ``KEY VALUE`` overrides, checked.

    A ``MODEL.DEVICE`` of "cuda", Detectron2's default, becomes "cpu" where PyTorch has no GPU; a
    warning says why if one is installed, or was named.

    Args:
        config_file: a path, or the name of one of the project's: see :func:`find_config`. "": none.
            Its ``_BASE_`` is a file, counted from its own folder, or such a name.

    Raises:
        ConfigError: for a missing file, an unknown key or a value that cannot be used.
    """
    if config_file:
        config_file = find_config(config_file)
    cfg = get_cfg()
    add_mutualnet_config(cfg)
    opts = list(opts or [])
    if len(opts) % 2:
        raise ConfigError(f"Overrides come as KEY VALUE pairs, got {' '.join(opts)!r}.")
    where = config_file
    try:
        if config_file:
            files = _ConfigFiles(cfg)
            # Detectron2 would run what an unknown YAML tag asks for.
            files.merge_from_file(config_file, allow_unsafe=False)
            cfg = CfgNode(files)
        where = f"Overrides {' '.join(opts)!r}"
        cfg.merge_from_list(opts)
    except (KeyError, AssertionError, TypeError, AttributeError, ValueError, OSError) as error:
        # A KeyError's own text is in quotes.
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ConfigError(f"{where}: {reason}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        if why_no_gpu() or cfg.MODEL.DEVICE != "cuda":
            why = why_no_gpu() or "there is no GPU."
            _warn(f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but the CPU does the work: {why}")
        cfg.MODEL.DEVICE = "cpu"
    check_device(cfg.MODEL.DEVICE)
    check_config(cfg)
    cfg.freeze()
    return cfg


@functools.cache
def _warn(text: str) -> None:
    """Log a warning once, however often configs are loaded."""
    logger.warning(text)


def flattened(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """
    A config's keys, with dots in their names, and values as they read back from JSON: no tuples.

    Args:
        node: a config, or what YAML reads of one that was written to a file.
        prefix: of the names.
    """
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return flat


def check_output_dir(path: str) -> None:
    """Make a folder for results; ConfigError, before any long work, if it cannot be written."""
    try:
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"OUTPUT_DIR {path} cannot be written: {error.strerror}.") from error

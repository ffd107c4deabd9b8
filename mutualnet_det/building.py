"""What Detectron2 cannot build from a config, told as an error of the config."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .config import ConfigError
from .errors import UserError


@contextmanager
def explaining_config(what: str) -> Iterator[None]:
    """
    ConfigError, with the reason and the place, where the block finds a name or value that it does
    not know: Detectron2 asserts, and looks up names, while it builds.

    Args:
        what: is built, such as "the network".
    """
    try:
        yield
    except UserError:
        raise
    except (AssertionError, KeyError, ValueError) as error:
        reason = str(error.args[0]) if error.args else ""
        place = traceback.extract_tb(error.__traceback__)[-1]
        if " " not in reason:  # a bare assertion or key
            reason = f"{f'{reason!r} does not fit ' if reason else ''}`{place.line}`"
        raise ConfigError(
            f"The config does not fit: {what} cannot be built. {reason.rstrip('.!')} "
            f"({'/'.join(Path(place.filename).parts[-3:])}, line {place.lineno})."
        ) from error

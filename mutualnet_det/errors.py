"""Errors that the user of a tool can mend, and how a tool reports them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .terminal import without_codes


class UserError(Exception):
    """Something given by the user cannot be used; the message says what, and what to do."""


class ConfigError(UserError, ValueError):
    """A config key has a value that cannot be used."""


@contextmanager
def reported() -> Iterator[None]:
    """
    Run a tool: a UserError ends it with its message and exit status 1, without a traceback.

    Other exceptions are defects, or failures of the machine, and keep their traceback.
    """
    try:
        yield
    except UserError as error:
        sys.exit(f"error: {without_codes(str(error))}")

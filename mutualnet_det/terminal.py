"""Text without the codes that colour it on a terminal, for files and for pages."""

from __future__ import annotations

import logging
import re

# Control sequences of ECMA-48, of which colours are one, and links and titles.
_CODES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")


def without_codes(text: str) -> str:
    """A text without terminal codes."""
    return _CODES.sub("", text)


def without_colours(logger: logging.Logger) -> logging.Logger:
    """The same logger, whose handlers write messages without terminal codes from now on."""
    for handler in logger.handlers:
        handler.addFilter(_drop_codes)
    return logger


def _drop_codes(record: logging.LogRecord) -> bool:
    """A filter that keeps every record, without terminal codes in it."""
    message = record.getMessage()
    if "\x1b" in message:
        record.msg, record.args = without_codes(message), None
    return True

"""Errors of exporting a point."""

from __future__ import annotations

from ...errors import UserError


class ExportError(UserError, ValueError):
    """A model, format or target that nothing can be exported with, or an export that is wrong."""

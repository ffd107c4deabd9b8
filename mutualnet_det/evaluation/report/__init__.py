"""The report: one HTML file that shows the grids of one or several trained models."""

from .build import ReportError, build_report, write_report

__all__ = ["ReportError", "build_report", "write_report"]

"""What a run has learned, as a page: report.html, its curves and pictures."""

from .report import write_report

__all__ = ["write_report"]

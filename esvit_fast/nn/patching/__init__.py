"""Foreign Swin models on our operator."""

from .patch import patch_model, unpatch_model
from .report import Report, Row, Runs

__all__ = ["Report", "Row", "Runs", "patch_model", "unpatch_model"]

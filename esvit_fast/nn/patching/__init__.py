"""Foreign Swin models on our operator."""

from .patch import patch_model, unpatch_model
from .report import Report, Row

__all__ = ["Report", "Row", "patch_model", "unpatch_model"]

"""The mathematics of self-supervision: networks, losses, teachers and centres. No files, no ranks."""

from .esvit import EsViT, MultiCropNetwork, Projection
from .esvit_loss import EsViTLoss, EsViTStatistics
from .koleo import koleo

__all__ = ["EsViT", "EsViTLoss", "EsViTStatistics", "MultiCropNetwork", "Projection", "koleo"]

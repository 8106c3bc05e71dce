"""The mathematics of self-supervision: networks, losses, teachers and centres. No files, no ranks."""

from .esvit import EsViT, MultiCropNetwork, Projection
from .losses.esvit import EsViTLoss, EsViTStatistics
from .losses.koleo import koleo

__all__ = ["EsViT", "EsViTLoss", "EsViTStatistics", "MultiCropNetwork", "Projection", "koleo"]

"""The mathematics of self-supervision: networks, losses, teachers and centres. No files, no ranks."""

from .esvit import EsViT, MultiCropNetwork, Projection
from .losses.esvit import EsViTLoss, EsViTStatistics
from .losses.koleo import koleo
from .method import Method, StepOutput
from .registry import METHODS, method_of, register_method

__all__ = [
    "METHODS",
    "EsViT",
    "EsViTLoss",
    "EsViTStatistics",
    "Method",
    "MultiCropNetwork",
    "Projection",
    "StepOutput",
    "koleo",
    "method_of",
    "register_method",
]

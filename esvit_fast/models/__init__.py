"""Backbones: topologies with the state-dict names of the published EsViT code."""

from .registry import create_model, list_models
from .swin import SwinTransformer

__all__ = ["SwinTransformer", "create_model", "list_models"]

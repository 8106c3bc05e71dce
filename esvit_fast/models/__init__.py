"""Backbones: topologies with the state-dict names of the published code of each."""

from .backbone import Backbone
from .registry import create_model, list_models, register_backbone
from .swin import SwinTransformer

__all__ = ["Backbone", "SwinTransformer", "create_model", "list_models", "register_backbone"]

"""Modules with parameters."""

from .drop_path import DropPath, share_draws
from .linear import Linear, linear
from .patches import PatchEmbed, PatchMerging
from .patching import patch_model, unpatch_model
from .projection_head import ProjectionHead
from .swin_block import Mlp, SwinBlock
from .window_attention import WindowAttention

__all__ = [
    "DropPath",
    "Linear",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "ProjectionHead",
    "SwinBlock",
    "WindowAttention",
    "linear",
    "patch_model",
    "share_draws",
    "unpatch_model",
]

"""Modules with parameters."""

from .patches import PatchEmbed, PatchMerging
from .projection_head import ProjectionHead
from .swin_block import SwinBlock
from .window_attention import WindowAttention

__all__ = ["PatchEmbed", "PatchMerging", "ProjectionHead", "SwinBlock", "WindowAttention"]

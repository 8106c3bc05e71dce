"""From pixels to patches, and from patches to larger patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear
from .not_scripted import NotScripted
from .recompute import through


class PatchEmbed(nn.Module):
    """Non-overlapping patches of an image, each projected to `dim` channels and normalised.

    Sides that patch_size does not divide are padded with zeros at the bottom and right.
    """

    def __init__(self, patch_size: int, in_channels: int, dim: int):
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """[B, in_channels, height, width] -> [B, ceil(height / patch_size), ceil(width / patch_size), dim]."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % self.patch_size, 0, -height % self.patch_size))
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class PatchMerging(NotScripted, nn.Module):
    """Joins 2 x 2 tokens into one of twice the channels; odd maps are padded with zeros at the bottom and right."""

    def __init__(self, dim: int):
        super().__init__()
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), 2 C]."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return through(self.norm, torch.cat(corners, -1), self.reduction)

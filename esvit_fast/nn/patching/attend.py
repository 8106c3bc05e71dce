"""What the families have in common around the operator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..stand_in import has_hooks

MAX_LOGIT_SCALE = math.log(100)
"""Limit of Swin v2's logit scale (arXiv 2111.09883, section 3.3: the temperature stays above 0.01)."""


def padded(size: Sequence[int], window: Sequence[int]) -> bool:
    """Whether a map of size (H, W) has to be padded to whole windows."""
    return size[0] % window[0] != 0 or size[1] % window[1] != 0


def blank(linear: nn.Module, x: Tensor) -> Tensor:
    """What a token of zeros is projected to: [out_features]; x gives channels, dtype and device."""
    if type(linear) is not nn.Linear:
        return linear(x.new_zeros(1, 1, 1, x.shape[-1])).flatten()
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def blank_is_hidden(size: Sequence[int], window: Sequence[int], *projections: nn.Module) -> str | None:
    """Why it is not known what padded tokens are projected to, or None."""
    if padded(size, window) and any(map(has_hooks, projections)):
        return "the map is padded, and hooks may change what padded tokens are projected to"
    return None


def pad_kv(x: Tensor, window: Sequence[int], qkv: nn.Module) -> Tensor | None:
    """[2 C], key and value of the padded tokens of a map [B, H, W, C], where one layer projects to all; None without.

    Padding precedes the projection, so they are what it makes of zeros.
    """
    if not padded(x.shape[1:3], window):
        return None
    projected = blank(qkv, x)
    return projected[len(projected) // 3 :]


def cosine_scale(logit_scale: Tensor) -> Tensor:
    """[heads] or [heads, 1, 1] -> [heads]."""
    return logit_scale.clamp(max=MAX_LOGIT_SCALE).exp().flatten()


def continuous_table(mlp: nn.Module, coordinates: Tensor, heads: int) -> Tensor:
    """Relative position bias table of Swin v2 (section 3.3): [1, 2 Wh - 1, 2 Ww - 1, 2] -> [positions, heads]."""
    return 16 * torch.sigmoid(mlp(coordinates).view(-1, heads))


def odd_map(window: Sequence[int], channels: int, like: Tensor) -> Tensor:
    """A map [1, H, W, channels] that needs padding on both axes, to try a module on."""
    return noise((1, 2 * window[0] - 1, 2 * window[1] + 1, channels), like)


def noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Normal noise on the device of a tensor, the same each time; the global generators are left alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like.device)

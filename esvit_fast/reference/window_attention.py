"""Shifted-window multi-head self-attention of Swin (arXiv 2103.14030, section 3.2), on the packed qkv map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def window_attention(
    qkv: Tensor,
    bias: Tensor,
    pad_kv: Tensor | None = None,
    cosine_scale: Tensor | None = None,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    shift_size: tuple[int, int],
    pad_mode: str,
    mask_value: float,
    scale: float,
) -> Tensor:
    """Attend within the windows of a cyclically shifted map; arguments as `esvit_fast.ops.window_attention`."""
    weights, value = window_attention_weights(
        qkv,
        bias,
        pad_kv,
        cosine_scale,
        num_heads=num_heads,
        window_size=window_size,
        shift_size=shift_size,
        pad_mode=pad_mode,
        mask_value=mask_value,
        scale=scale,
    )
    windows = (weights.to(value.dtype) @ value).transpose(2, 3).flatten(3)  # [B, windows, N, C]
    return merge_windows(windows, qkv.shape[1:3], window_size, shift_size, pad_mode)


def window_attention_weights(
    qkv: Tensor,
    bias: Tensor,
    pad_kv: Tensor | None = None,
    cosine_scale: Tensor | None = None,
    *,
    num_heads: int,
    window_size: tuple[int, int],
    shift_size: tuple[int, int],
    pad_mode: str,
    mask_value: float,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Softmax weights [B, windows, heads, N, N], and the values [B, windows, heads, N, head_dim] that they average."""
    _, height, width, channels = qkv.shape
    padded = tuple(side + -side % window for side, window in zip((height, width), window_size, strict=True))
    windowed = partition_windows(qkv, window_size, shift_size, pad_mode)  # [B, windows, N, 3 C]
    offset = bias if bias.ndim == 3 else dense_bias(bias, window_size)  # [heads, N, N]
    if any(shift_size):
        y, x = (torch.arange(p, device=qkv.device) >= p - s for p, s in zip(padded, shift_size, strict=True))
        region = partition_windows((2 * y[:, None] + x)[None, :, :, None], window_size, (0, 0), pad_mode)
        apart = (region != region.transpose(-2, -1)).unsqueeze(2)  # [1, windows, 1, N, N]
        offset = offset + torch.where(apart, mask_value, 0.0).to(offset.dtype)
    if padded != (height, width):
        real = partition_windows(qkv.new_ones(1, height, width, 1), window_size, shift_size, pad_mode) > 0
        if pad_kv is None:
            # only real queries refuse pads: the rows of pads are dropped, and must not become NaN before that
            offset = offset.masked_fill((real & ~real.transpose(-2, -1)).unsqueeze(2), float("-inf"))
        else:
            windowed = torch.where(real, windowed, F.pad(pad_kv, (channels // 3, 0)).to(qkv.dtype))
    query, key, value = windowed.unflatten(-1, (3, num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
    if cosine_scale is None:
        return ((query * scale) @ key.transpose(-2, -1) + offset).softmax(-1), value
    # not in half precision, where normalize's limit of 1e-12 is zero
    wide = torch.promote_types(qkv.dtype, torch.float32)
    query, key = (F.normalize(x.to(wide), dim=-1) for x in (query, key))
    return (query @ key.transpose(-2, -1) * cosine_scale[:, None, None] + offset).softmax(-1), value


def partition_windows(
    image: Tensor, window_size: tuple[int, int], shift_size: tuple[int, int], pad_mode: str
) -> Tensor:
    """Pad with zeros, shift cyclically and cut into windows: [B, H, W, C] -> [B, windows, N, C]."""
    height, width = image.shape[1:3]
    pad = (0, 0, 0, -width % window_size[1], 0, -height % window_size[0])
    back = (-shift_size[0], -shift_size[1])
    image = _roll(F.pad(image, pad), back) if pad_mode == "before_roll" else F.pad(_roll(image, back), pad)
    image = image.unflatten(2, (-1, window_size[1])).unflatten(1, (-1, window_size[0]))
    return image.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def merge_windows(
    windows: Tensor, size: tuple[int, int], window_size: tuple[int, int], shift_size: tuple[int, int], pad_mode: str
) -> Tensor:
    """Undo `partition_windows`: [B, windows, N, C] -> [B, *size, C]."""
    height, width = size
    rows = -(-height // window_size[0])
    image = windows.unflatten(2, window_size).unflatten(1, (rows, -1)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    if pad_mode == "before_roll":
        return _roll(image, shift_size)[:, :height, :width].contiguous()
    return _roll(image[:, :height, :width], shift_size).contiguous()


def _roll(image: Tensor, shift: tuple[int, int]) -> Tensor:
    return image.roll(shift, (1, 2)) if any(shift) else image


def dense_bias(table: Tensor, window_size: tuple[int, int]) -> Tensor:
    """Relative position bias table [(2 Wh - 1) (2 Ww - 1), heads] -> [heads, N, N]."""
    wh, ww = window_size
    sides = (torch.arange(side, device=table.device) for side in window_size)
    y, x = torch.meshgrid(*sides, indexing="ij")
    y, x = y.flatten(), x.flatten()
    index = (y[:, None] - y + wh - 1) * (2 * ww - 1) + x[:, None] - x + ww - 1
    # not table[index], whose gradient is summed by atomics where it is large
    return F.embedding(index, table).permute(2, 0, 1)

"""Blocks as Microsoft's Swin, Swin v2 and Swin for detection and as EsViT have them, known by what they look like.

Their code is copied into many projects, so there is no class to know them by: a block that has their attributes is
tried as each of them, and is the one that it computes the same as. All take tokens [B, L, C] and pad before they shift.
"""

from __future__ import annotations

import inspect
import math

import torch
from torch import Tensor, nn

from ... import ops
from ...reference.window_attention import partition_windows
from ..linear import linear
from .attend import blank_is_hidden, continuous_table, cosine_scale, noise, pad_kv, padded
from .redirect import Family, dropping, fall_back, hooked


def candidates(block: nn.Module) -> tuple[Family, ...]:
    """The families that a block may belong to; none if it does not look like one."""
    attn = getattr(block, "attn", None)
    parts = (getattr(block, name, None) for name in ("norm1", "norm2", "mlp", "drop_path"))
    attention_parts = (getattr(attn, name, None) for name in ("qkv", "proj", "attn_drop", "proj_drop"))
    if not all(isinstance(part, nn.Module) for part in (attn, *parts, *attention_parts)):
        return ()
    if not all(isinstance(getattr(block, name, None), int) for name in ("window_size", "shift_size")):
        return ()
    if not hasattr(attn, "num_heads") or not (hasattr(attn, "relative_position_bias_table") or _is_v2(attn)):
        return ()
    arguments = list(inspect.signature(type(block).forward).parameters)[1:]
    if len(arguments) == 2:
        return (_DETECTION,)
    if len(arguments) == 1 and hasattr(block, "input_resolution"):
        return (_MICROSOFT_V2,) if _is_v2(attn) else (_ESVIT, _MICROSOFT)
    return ()


def _microsoft(block: nn.Module, x: Tensor) -> Tensor:
    size = tuple(block.input_resolution)
    if reason := _obstacle(block, x, size):
        return fall_back(block, "forward", reason, x)
    x = x + block.drop_path(_attend(block, block.norm1(x), size))
    return x + block.drop_path(block.mlp(block.norm2(x)))


def _microsoft_v2(block: nn.Module, x: Tensor) -> Tensor:
    size = tuple(block.input_resolution)
    if reason := _obstacle(block, x, size):
        return fall_back(block, "forward", reason, x)
    x = x + block.drop_path(block.norm1(_attend(block, x, size)))
    return x + block.drop_path(block.norm2(block.mlp(x)))


def _detection(block: nn.Module, x: Tensor, mask_matrix: Tensor | None) -> Tensor:
    size = block.H, block.W
    if reason := _obstacle(block, x, size):
        return fall_back(block, "forward", reason, x, mask_matrix)
    x = x + block.drop_path(_attend(block, block.norm1(x), size))
    return x + block.drop_path(block.mlp(block.norm2(x)))


def _esvit(block: nn.Module, x: Tensor) -> tuple[Tensor, None]:
    side = math.isqrt(x.shape[1])
    if reason := _obstacle(block, x, (side, side)):
        return fall_back(block, "forward", reason, x)
    x = x + block.drop_path(_attend(block, block.norm1(x), (side, side)))
    return x + block.drop_path(block.mlp(block.norm2(x))), None


def _attend(block: nn.Module, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    attn, window = block.attn, (block.window_size,) * 2
    x = tokens.unflatten(1, size)
    if _is_v2(attn):
        scores = {"cosine_scale": cosine_scale(attn.logit_scale)}
        bias = continuous_table(attn.cpb_mlp, attn.relative_coords_table, attn.num_heads)
        # only queries and values have a bias
        offset = None if attn.q_bias is None else torch.cat((attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias))
        qkv = linear(x, attn.qkv.weight, offset)
        pads = None
        if padded(size, window):
            pads = x.new_zeros(2 * x.shape[-1]) if offset is None else offset[x.shape[-1] :]
    else:
        scores = {"scale": attn.scale}
        bias = attn.relative_position_bias_table
        qkv, pads = attn.qkv(x), pad_kv(x, window, attn.qkv)
    shift = (block.shift_size,) * 2
    x = ops.window_attention(
        qkv, bias, num_heads=attn.num_heads, window_size=window, shift_size=shift, pad_kv=pads, **scores
    )
    return attn.proj_drop(attn.proj(x)).flatten(1, 2)


def _is_v2(attn: nn.Module) -> bool:
    return hasattr(attn, "logit_scale") and hasattr(attn, "cpb_mlp")


def _obstacle(block: nn.Module, x: Tensor, size: tuple[int, int]) -> str | None:
    attn, window = block.attn, (block.window_size,) * 2
    return (
        hooked(attn, "attn_drop", "softmax")
        or dropping(attn.attn_drop)
        or blank_is_hidden(size, window, attn.qkv)
        or _other_length(x, size)
    )


def _other_length(x: Tensor, size: tuple[int, int]) -> str | None:
    return None if x.shape[1] == size[0] * size[1] else f"{x.shape[1]} tokens are no map of {size[0]} x {size[1]}"


def _native_example(block: nn.Module) -> tuple[Tensor]:
    return (_tokens(block, tuple(block.input_resolution)),)


def _square_example(block: nn.Module) -> tuple[Tensor]:
    return (_tokens(block, (2 * block.window_size + 1,) * 2),)


def _detection_example(block: nn.Module) -> tuple[Tensor, Tensor]:
    """An odd map, and the mask [windows, N, N] that the stage makes for shifted blocks."""
    window, shift = (block.window_size,) * 2, block.window_size // 2
    block.H, block.W = 2 * block.window_size - 1, 2 * block.window_size + 1
    tokens = _tokens(block, (block.H, block.W))
    sides = (-(-side // window[0]) * window[0] for side in (block.H, block.W))
    y, x = (torch.arange(side, device=tokens.device) >= side - shift for side in sides)
    regions = partition_windows((2 * y[:, None] + x)[None, :, :, None], window, (0, 0), "before_roll")[0]
    return tokens, torch.where(regions == regions.transpose(-2, -1), 0.0, -100.0)


def _tokens(block: nn.Module, size: tuple[int, int]) -> Tensor:
    weight = block.norm1.weight
    return noise((1, size[0] * size[1], len(weight)), weight)


_MICROSOFT = Family("Microsoft Swin", "forward", _microsoft, _native_example)
_MICROSOFT_V2 = Family("Microsoft Swin v2", "forward", _microsoft_v2, _native_example)
_DETECTION = Family("Swin for detection", "forward", _detection, _detection_example)
_ESVIT = Family(
    "EsViT Swin", "forward", _esvit, _square_example, note="; it returns None in place of attention weights"
)

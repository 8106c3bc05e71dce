"""timm's swin_*, swinv2_* and swinv2_cr_*: the method of the block that shifts, pads, cuts and attends.

timm shifts first and pads then. Window and shift are read at every call, since `set_input_size` changes them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ... import ops
from ..linear import linear
from .attend import blank_is_hidden, continuous_table, cosine_scale, noise, odd_map, pad_kv, padded
from .redirect import Family, dropping, fall_back, hooked


def _v1(block: nn.Module, x: Tensor) -> Tensor:
    attn = block.attn
    if reason := _obstacle(block, x.shape[1:3]):
        return fall_back(block, "_attn", reason, x)
    qkv = attn.qkv(x)
    pads = pad_kv(x, block.window_size, attn.qkv)
    return _attend(block, qkv, attn.relative_position_bias_table, pads, scale=attn.scale)


def _v2(block: nn.Module, x: Tensor) -> Tensor:
    attn = block.attn
    if reason := _obstacle(block, x.shape[1:3]):
        return fall_back(block, "_attn", reason, x)
    pads = None
    if attn.q_bias is None:
        qkv = attn.qkv(x)
        pads = pad_kv(x, block.window_size, attn.qkv)
    else:
        bias = torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
        qkv = attn.qkv(x) + bias if attn.qkv_bias_separate else linear(x, attn.qkv.weight, bias)
        if padded(x.shape[1:3], block.window_size):
            pads = bias[len(bias) // 3 :]
    table = continuous_table(attn.cpb_mlp, attn.relative_coords_table, attn.num_heads)
    return _attend(block, qkv, table, pads, cosine_scale=cosine_scale(attn.logit_scale))


def _cr(block: nn.Module, x: Tensor) -> Tensor:
    attn = block.attn
    if reason := _obstacle(block, x.shape[1:3]):
        return fall_back(block, "_shifted_window_attn", reason, x)
    qkv = attn.qkv(x)
    pads = pad_kv(x, block.window_size, attn.qkv)
    # dense, as dropout in the network that makes it tells apart pairs of the same distance
    bias = attn._relative_positional_encodings().squeeze(0)
    return _attend(block, qkv, bias, pads, cosine_scale=cosine_scale(attn.logit_scale))


def _attend(block, qkv, bias, pads, **scores) -> Tensor:
    attn = block.attn
    x = ops.window_attention(
        qkv,
        bias,
        num_heads=attn.num_heads,
        window_size=block.window_size,
        shift_size=block.shift_size,
        pad_kv=pads,
        pad_mode="after_roll",
        **scores,
    )
    return attn.proj_drop(attn.proj(x))


def _obstacle(block: nn.Module, size: torch.Size) -> str | None:
    attn = block.attn
    return (
        hooked(attn, "attn_drop", "softmax")
        or dropping(attn.attn_drop)
        or blank_is_hidden(size, block.window_size, attn.qkv)
        or _other_mask(block, size)
    )


def _other_mask(block: nn.Module, size: torch.Size) -> str | None:
    """Why the block's mask, made in advance, is not the one for a map of this size."""
    if not any(block.shift_size) or getattr(block, "dynamic_mask", False):
        return None
    native = _native(block)
    if all(-(-s // w) == -(-n // w) for s, n, w in zip(size, native, block.window_size, strict=True)):
        return None
    return f"its mask is for {native[0]} x {native[1]} tokens, not {size[0]} x {size[1]}; call set_input_size"


def _native(block: nn.Module) -> tuple[int, int]:
    return tuple(getattr(block, "feat_size", None) or block.input_resolution)


def _example(block: nn.Module) -> tuple[Tensor]:
    like = next(block.parameters())
    if any(block.shift_size) and not getattr(block, "dynamic_mask", False):
        return (noise((1, *_native(block), block.dim), like),)
    return (odd_map(block.window_size, block.dim, like),)


def _sequential(block: nn.Module) -> str | None:
    return "sequential_attn=True is not windowed attention at once" if block.attn.sequential_attn else None


FAMILIES = {
    "timm.models.swin_transformer.SwinTransformerBlock": Family("timm Swin", "_attn", _v1, _example),
    "timm.models.swin_transformer_v2.SwinTransformerV2Block": Family("timm Swin v2", "_attn", _v2, _example),
    "timm.models.swin_transformer_v2_cr.SwinTransformerV2CrBlock": Family(
        "timm Swin v2 CR", "_shifted_window_attn", _cr, _example, _sequential
    ),
}

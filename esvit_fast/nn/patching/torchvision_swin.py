"""torchvision's swin_* and swin_v2_*: the attention module itself, which pads, shifts, cuts and attends."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import ops
from ..linear import linear
from .attend import blank_is_hidden, continuous_table, cosine_scale, odd_map, pad_kv, padded
from .redirect import DROPS, Family, fall_back


def _v1(attn: nn.Module, x: Tensor) -> Tensor:
    if reason := _obstacle(attn, x):
        return fall_back(attn, "forward", reason, x)
    pads = pad_kv(x, attn.window_size, attn.qkv)
    return _attend(attn, x, attn.qkv(x), attn.relative_position_bias_table, pads)


def _v2(attn: nn.Module, x: Tensor) -> Tensor:
    if reason := _obstacle(attn, x):
        return fall_back(attn, "forward", reason, x)
    pads, bias = None, attn.qkv.bias
    if bias is not None:
        query, key, value = bias.chunk(3)
        # keys have no bias, whatever the parameter holds
        bias = torch.cat((query, torch.zeros_like(key), value))
    if padded(x.shape[1:3], attn.window_size):
        pads = x.new_zeros(2 * x.shape[-1]) if bias is None else bias[x.shape[-1] :]
    qkv = linear(x, attn.qkv.weight, bias)
    table = continuous_table(attn.cpb_mlp, attn.relative_coords_table, attn.num_heads)
    return _attend(attn, x, qkv, table, pads, cosine_scale=cosine_scale(attn.logit_scale))


def _attend(attn, x, qkv, bias, pads, **scores) -> Tensor:
    # an axis that one window covers is not shifted
    sides = zip(x.shape[1:3], attn.window_size, attn.shift_size, strict=True)
    shift = tuple(0 if window >= side else shift for side, window, shift in sides)
    y = ops.window_attention(
        qkv,
        bias,
        num_heads=attn.num_heads,
        window_size=tuple(attn.window_size),
        shift_size=shift,
        pad_kv=pads,
        **scores,
    )
    return F.dropout(attn.proj(y), p=attn.dropout, training=attn.training)


def _obstacle(attn: nn.Module, x: Tensor) -> str | None:
    if attn.training and attn.attention_dropout:
        return DROPS
    return blank_is_hidden(x.shape[1:3], attn.window_size, attn.qkv)


def _example(attn: nn.Module) -> tuple[Tensor]:
    return (odd_map(attn.window_size, attn.qkv.in_features, attn.qkv.weight),)


FAMILIES = {
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": Family(
        "torchvision Swin v2", "forward", _v2, _example
    ),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": Family("torchvision Swin", "forward", _v1, _example),
}

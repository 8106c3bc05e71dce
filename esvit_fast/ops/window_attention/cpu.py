"""Window attention on the CPU: tiles made in torch, then the kernel, and its sums added in a fixed order."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from .._core.cpu import refuse_device
from .._core.library import linearize
from .._core.plan import Facts
from .windows import Layout, layout, tiles


def refuse(facts: Facts) -> str | None:
    """Why the kernels cannot run, or None."""
    return refuse_device(facts, "the map is")


def forward(
    qkv, bias, pad_kv, cosine_scale, *, num_heads, window_size, shift_size, pad_mode, mask_value, scale
) -> Tensor:
    """The output; arguments as `esvit_fast.ops.window_attention`."""
    where, tiled, (pads, cosine) = _prepare(qkv, pad_kv, cosine_scale, window_size, shift_size, pad_mode, mask_value)
    return torch.ops.esvit_fast_cpu.window_attention(
        qkv.contiguous(), tiled(bias), pads, cosine, where.rows, where.columns, where.column_kinds, scale
    )


def backward(
    grad, qkv, bias, pad_kv, cosine_scale, *, num_heads, window_size, shift_size, pad_mode, mask_value, scale
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of qkv, bias, pad_kv and cosine_scale; empty ones for what is None."""
    where, tiled, (pads, cosine) = _prepare(qkv, pad_kv, cosine_scale, window_size, shift_size, pad_mode, mask_value)
    made, back = linearize(tiled, (bias,))
    dqkv, dtiles, dpads, dcosine = torch.ops.esvit_fast_cpu.window_attention_backward(
        grad.contiguous(),
        qkv.contiguous(),
        made,
        pads,
        cosine,
        where.rows,
        where.columns,
        where.column_kinds,
        scale,
        _shares(where, qkv, num_heads, made),
    )
    # one after the other, as a sum's order depends on the number of threads
    dtiles, dpads, dcosine = (reduce(torch.add, shares) for shares in (dtiles, dpads, dcosine))
    (dbias,) = back(dtiles.transpose(0, 1))
    small = ((dpads, pad_kv), (dcosine, cosine_scale))
    return dqkv, dbias.contiguous(), *(bias.new_empty(0) if x is None else d.to(x.dtype) for d, x in small)


def _prepare(qkv, pad_kv, cosine_scale, window_size, shift_size, pad_mode, mask_value):
    """Windows, a function from bias to tiles, and the small tensors in the dtype that is computed in."""
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    where = layout(tuple(qkv.shape[1:3]), window_size, shift_size, pad_mode, qkv.device)

    def tiled(bias):
        return tiles(bias, where, window_size, mask_value, pad_kv is not None, dtype)

    return where, tiled, [None if x is None else x.to(dtype).contiguous() for x in (pad_kv, cosine_scale)]


def _shares(where: Layout, qkv: Tensor, num_heads: int, made: Tensor) -> int:
    """Into how many sums the windows are divided: enough for all cores, few enough for short sums of 32 windows.

    All sums together are not larger than the gradient of qkv, unless there is but one.
    """
    windows = len(qkv) * len(where.rows) * len(where.columns)
    wanted = max(min(windows // 32, 64 // num_heads), min(windows, 16 // num_heads))
    return max(1, min(wanted, qkv.numel() // made.numel()))

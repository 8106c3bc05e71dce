"""The operator `esvit_fast::window_attention`: shifted-window multi-head self-attention on the packed qkv map."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from .. import reference
from . import _native
from ._library import define, differentiate, implement, vjp
from ._plan import Facts, choose, register_rule
from ._windows import Layout, layout, tiles

_OPTIONS = (
    "int num_heads, int[2] window_size, int[2] shift_size, str pad_mode, float mask_value, float scale, str backend"
)
_PAD_MODES = ("before_roll", "after_roll")


def window_attention(
    qkv: Tensor,
    bias: Tensor,
    *,
    num_heads: int,
    window_size: tuple[int, int] | int,
    shift_size: tuple[int, int] | int = (0, 0),
    pad_kv: Tensor | None = None,
    pad_mode: str = "before_roll",
    mask_value: float = -100.0,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Multi-head self-attention within the windows of a cyclically shifted map (Swin, arXiv 2103.14030, section 3.2).

    The map may have any size. It is padded at the bottom and right to whole windows.

    Args:
        qkv: [B, H, W, 3 C] floating point, channels in the order (3, heads, head_dim).
        bias: relative position bias, as a table [(2 Wh - 1) (2 Ww - 1), heads] or dense [heads, N, N], N = Wh Ww.
        num_heads: number of heads; divides C.
        window_size: (Wh, Ww) in tokens, or one number for both.
        shift_size: cyclic shift in tokens, smaller than the window. Tokens that the shift brings together although
            they are not neighbours have `mask_value` added to their score.
        pad_kv: [2 C], key and value of padded positions, which are the qkv bias where padding precedes the
            projection; None: padded positions are not attended.
        pad_mode: "before_roll" pads, then shifts, as EsViT, torchvision and Hugging Face do; "after_roll" as timm.
        mask_value: added to the scores of masked pairs.
        scale: of the query; None: head_dim ** -0.5.
        backend: one of cuda, triton, cpu, reference; None: the first that can run.

    Returns:
        [B, H, W, C] in the dtype of qkv. Differentiable once in qkv, bias and pad_kv.

    Numerics:
        Saved for the backward pass: the inputs only; scores are computed again.

    Raises:
        ValueError: an argument has the wrong shape or value.
        TypeError: an argument has the wrong dtype or device.
        BackendError: the backend asked for cannot run; with the reasons.
    """
    window_size, shift_size = _pair(window_size), _pair(shift_size)
    _check(qkv, bias, pad_kv, num_heads, window_size, shift_size, pad_mode)
    if scale is None:
        scale = (qkv.shape[-1] // 3 // num_heads) ** -0.5
    options = {"num_heads": num_heads, "window_size": window_size, "shift_size": shift_size, "pad_mode": pad_mode}
    chosen = choose("window_attention", {"qkv": qkv, "bias": bias, "pad_kv": pad_kv}, options, backend)
    return torch.ops.esvit_fast.window_attention(
        qkv, bias, pad_kv, num_heads, window_size, shift_size, pad_mode, mask_value, scale, chosen
    )


def _pair(size: tuple[int, int] | int) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _check(qkv, bias, pad_kv, num_heads, window_size, shift_size, pad_mode) -> None:
    if qkv.ndim != 4 or qkv.shape[-1] % 3 or 0 in qkv.shape[1:]:
        raise ValueError(f"qkv has shape {tuple(qkv.shape)}; it must be [B, H, W, 3 * C] with H, W, C > 0")
    for name, tensor in (("qkv", qkv), ("bias", bias), ("pad_kv", pad_kv)):
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has dtype {tensor.dtype}; it must be a floating-point tensor")
        if tensor.device != qkv.device:
            raise TypeError(f"{name} is on {tensor.device} but qkv is on {qkv.device}; move it there")
    channels = qkv.shape[-1] // 3
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"num_heads={num_heads} must divide C={channels}, a third of qkv's channels")
    if len(window_size) != 2 or min(window_size) < 1:
        raise ValueError(f"window_size={window_size} must be two numbers of at least 1")
    if len(shift_size) != 2 or not all(0 <= s < w for s, w in zip(shift_size, window_size, strict=True)):
        raise ValueError(f"shift_size={shift_size} must be smaller than window_size={window_size} and not negative")
    wh, ww = window_size
    shapes = ((2 * wh - 1) * (2 * ww - 1), num_heads), (num_heads, wh * ww, wh * ww)
    if tuple(bias.shape) not in shapes:
        raise ValueError(
            f"bias has shape {tuple(bias.shape)}; for window_size={window_size} and num_heads={num_heads} "
            f"it must be a table {list(shapes[0])} or dense {list(shapes[1])}"
        )
    if pad_kv is not None and tuple(pad_kv.shape) != (2 * channels,):
        raise ValueError(f"pad_kv has shape {tuple(pad_kv.shape)}; it must be [2 * C] = [{2 * channels}]")
    if pad_mode not in _PAD_MODES:
        raise ValueError(f"pad_mode={pad_mode!r} must be one of {', '.join(_PAD_MODES)}")


def _fake(qkv, bias, pad_kv, *options):
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


def _fake_backward(grad, qkv, bias, pad_kv, *options):
    return (
        torch.empty_like(qkv),
        torch.empty_like(bias),
        bias.new_empty(0) if pad_kv is None else pad_kv.new_empty(pad_kv.shape),
    )


def _setup_context(ctx, inputs, output):
    qkv, bias, pad_kv, *ctx.options = inputs
    ctx.save_for_backward(qkv, bias, pad_kv)


def _backward(ctx, grad):
    qkv, bias, pad_kv = ctx.saved_tensors
    grads = torch.ops.esvit_fast.window_attention_backward(grad, qkv, bias, pad_kv, *ctx.options)
    needed = (g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False))
    return *needed, *(None for _ in ctx.options)


def _named(options) -> dict:
    num_heads, window_size, shift_size, pad_mode, mask_value, scale = options
    return {
        "num_heads": num_heads,
        "window_size": tuple(window_size),
        "shift_size": tuple(shift_size),
        "pad_mode": pad_mode,
        "mask_value": mask_value,
        "scale": scale,
    }


def _reference(qkv, bias, pad_kv, *options):
    return reference.window_attention(qkv, bias, pad_kv, **_named(options))


def _reference_backward(grad, qkv, bias, pad_kv, *options):
    inputs = (qkv, bias) if pad_kv is None else (qkv, bias, pad_kv)
    grads = vjp(lambda *xs: reference.window_attention(*xs, **_named(options)), inputs, grad)
    return grads if len(grads) == 3 else (*grads, bias.new_empty(0))


_CPU_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _cpu_rule(facts: Facts) -> str | None:
    if facts.device_type != "cpu":
        return f"the map is on {facts.device_type}"
    if facts.dtype not in _CPU_DTYPES:
        return f"dtype {facts.dtype} is none of {', '.join(str(dtype) for dtype in _CPU_DTYPES)}"
    return _native.CPU_MISSING


def _cpu_inputs(qkv, bias, pad_kv, window_size, shift_size, pad_mode, mask_value):
    """Windows, a function from bias to tiles, and pad_kv, in the dtype that is computed in."""
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    where = layout(tuple(qkv.shape[1:3]), tuple(window_size), tuple(shift_size), pad_mode, qkv.device)

    def tiled(bias):
        return tiles(bias, where, tuple(window_size), mask_value, pad_kv is not None, dtype)

    return where, tiled, None if pad_kv is None else pad_kv.to(dtype).contiguous()


def _shares(where: Layout, batch: int, num_heads: int) -> int:
    """Into how many sums the windows are divided: enough for all cores, few enough for short sums of 32 windows."""
    windows = batch * len(where.rows) * len(where.columns)
    return max(1, min(windows // 32, 64 // num_heads), min(windows, 16 // num_heads))


def _cpu(qkv, bias, pad_kv, num_heads, window_size, shift_size, pad_mode, mask_value, scale):
    where, tiled, pad_kv = _cpu_inputs(qkv, bias, pad_kv, window_size, shift_size, pad_mode, mask_value)
    return torch.ops.esvit_fast_cpu.window_attention(
        qkv.contiguous(), tiled(bias), pad_kv, where.rows, where.columns, where.column_kinds, scale
    )


def _cpu_backward(grad, qkv, bias, pad_kv, num_heads, window_size, shift_size, pad_mode, mask_value, scale):
    where, tiled, pads = _cpu_inputs(qkv, bias, pad_kv, window_size, shift_size, pad_mode, mask_value)
    dqkv, dtiles, dpads = torch.ops.esvit_fast_cpu.window_attention_backward(
        grad.contiguous(),
        qkv.contiguous(),
        tiled(bias),
        pads,
        where.rows,
        where.columns,
        where.column_kinds,
        scale,
        _shares(where, len(qkv), num_heads),
    )
    # one after the other, as a sum's order depends on the number of threads
    (dbias,) = vjp(tiled, (bias,), reduce(torch.add, dtiles).transpose(0, 1))
    return dqkv, dbias, bias.new_empty(0) if pad_kv is None else reduce(torch.add, dpads).to(pad_kv.dtype)


define("window_attention", f"(Tensor qkv, Tensor bias, Tensor? pad_kv, {_OPTIONS}) -> Tensor", _fake)
define(
    "window_attention_backward",
    f"(Tensor grad, Tensor qkv, Tensor bias, Tensor? pad_kv, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)
differentiate("window_attention", _backward, _setup_context)
implement("window_attention", "reference", _reference)
implement("window_attention_backward", "reference", _reference_backward)
implement("window_attention", "cpu", _cpu)
implement("window_attention_backward", "cpu", _cpu_backward)
register_rule("window_attention", "cpu", _cpu_rule)
register_rule("window_attention", "reference", lambda facts: None)

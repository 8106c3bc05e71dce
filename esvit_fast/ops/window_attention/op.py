"""The operator `esvit_fast::window_attention`: shifted-window multi-head self-attention on the packed qkv map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ... import reference
from .._core.checks import check_tensors
from .._core.library import define, differentiate, implement, vjp
from .._core.plan import choose, register_rule
from . import cpu, cuda, triton
from .windows import cut_axis

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
    cosine_scale: Tensor | None = None,
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
        cosine_scale: [heads]: scores are the cosines of query and key times this (Swin v2, arXiv 2111.09883, section
            3.3: exp of the clamped logit scale); None: scaled dot products.
        pad_mode: "before_roll" pads, then shifts, as EsViT, torchvision and Hugging Face do; "after_roll" as timm.
        mask_value: added to the scores of masked pairs.
        scale: of dot products; None: head_dim ** -0.5.
        backend: one of cuda, triton, cpu, chunked, reference; None: the first that can run.

    Returns:
        [B, H, W, C] in the dtype of qkv. Differentiable once in qkv, bias, pad_kv and cosine_scale.

    Numerics:
        Saved for the backward pass: the inputs only; scores are computed again. Accumulated in float32, or in float64
        for float64. Gradients have the same bits for any number of threads.

    Raises:
        ValueError: an argument has the wrong shape or value.
        TypeError: an argument has the wrong dtype or device.
        BackendError: the backend asked for cannot run; with the reasons.
    """
    window_size, shift_size = _pair(window_size), _pair(shift_size)
    tensors = {"qkv": qkv, "bias": bias, "pad_kv": pad_kv, "cosine_scale": cosine_scale}
    check_tensors(tensors)
    _check(tensors, num_heads, window_size, shift_size, pad_mode)
    if scale is not None and cosine_scale is not None:
        raise ValueError(f"scale={scale} has no meaning beside cosine_scale; leave one of them out")
    if scale is None:
        scale = (qkv.shape[-1] // 3 // num_heads) ** -0.5
    options = {"num_heads": num_heads, "window_size": window_size, "shift_size": shift_size, "pad_mode": pad_mode}
    chosen = choose("window_attention", tensors, options, backend)
    return torch.ops.esvit_fast.window_attention(
        *tensors.values(), num_heads, window_size, shift_size, pad_mode, mask_value, scale, chosen
    )


def _pair(size: tuple[int, int] | int) -> tuple[int, int]:
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def _check(tensors, num_heads, window_size, shift_size, pad_mode) -> None:
    qkv, bias, pad_kv, cosine_scale = tensors.values()
    if qkv.ndim != 4 or qkv.shape[-1] % 3 or 0 in qkv.shape[1:]:
        raise ValueError(f"qkv has shape {tuple(qkv.shape)}; it must be [B, H, W, 3 * C] with H, W, C > 0")
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
    if cosine_scale is not None and tuple(cosine_scale.shape) != (num_heads,):
        raise ValueError(f"cosine_scale has shape {tuple(cosine_scale.shape)}; it must be [num_heads] = [{num_heads}]")
    if pad_mode not in _PAD_MODES:
        raise ValueError(f"pad_mode={pad_mode!r} must be one of {', '.join(_PAD_MODES)}")


def _fake(qkv, *rest):
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


def _fake_backward(grad, qkv, bias, pad_kv, cosine_scale, *options):
    return tuple(bias.new_empty(0) if x is None else x.new_empty(x.shape) for x in (qkv, bias, pad_kv, cosine_scale))


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.options = inputs[4:]


def _backward(ctx, grad):
    grads = torch.ops.esvit_fast.window_attention_backward(grad, *ctx.saved_tensors, *ctx.options)
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


def _reference(qkv, bias, pad_kv, cosine_scale, *options):
    return reference.window_attention(qkv, bias, pad_kv, cosine_scale, **_named(options))


def _reference_backward(grad, *inputs):
    tensors, options = inputs[:4], inputs[4:]

    def run(*given):
        rest = iter(given)
        return _reference(*(None if x is None else next(rest) for x in tensors), *options)

    grads = iter(vjp(run, [x for x in tensors if x is not None], grad))
    return tuple(tensors[1].new_empty(0) if x is None else next(grads).contiguous() for x in tensors)


_INPUTS = "Tensor qkv, Tensor bias, Tensor? pad_kv, Tensor? cosine_scale"


def _flops(products: int, qkv, window_size, shift_size, pad_mode: str) -> int:
    """Every token meets the tokens of its window: a product of two maps has a square of its tokens for each."""
    batch, height, width, channels = qkv.shape
    pairs = math.prod(
        sum(len(source) ** 2 for source in cut_axis(*each, pad_mode).source)
        for each in zip((height, width), window_size, shift_size, strict=True)
    )
    return 2 * products * batch * pairs * channels // 3


define(
    "window_attention",
    f"({_INPUTS}, {_OPTIONS}) -> Tensor",
    _fake,
    lambda qkv, *rest: _flops(2, qkv, *rest[4:7]),
)
define(
    "window_attention_backward",
    f"(Tensor grad, {_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_backward,
    lambda grad, qkv, *rest: _flops(5, qkv, *rest[4:7]),  # scores are computed again
)
differentiate("window_attention", _backward, _setup_context)
implement("window_attention", "reference", _reference)
implement("window_attention_backward", "reference", _reference_backward)
implement("window_attention", "cuda", lambda *args: cuda.forward(*args[:4], **_named(args[4:])))
implement("window_attention_backward", "cuda", lambda *args: cuda.backward(*args[:5], **_named(args[5:])))
implement("window_attention", "triton", lambda *args: triton.forward(*args[:4], **_named(args[4:])))
implement("window_attention_backward", "triton", lambda *args: triton.backward(*args[:5], **_named(args[5:])))
implement("window_attention", "cpu", lambda *args: cpu.forward(*args[:4], **_named(args[4:])))
implement("window_attention_backward", "cpu", lambda *args: cpu.backward(*args[:5], **_named(args[5:])))
register_rule("window_attention", "cuda", cuda.refuse, cuda.configure)
register_rule("window_attention", "triton", triton.refuse, triton.configure)
register_rule("window_attention", "cpu", cpu.refuse)
register_rule("window_attention", "reference", lambda facts: None)

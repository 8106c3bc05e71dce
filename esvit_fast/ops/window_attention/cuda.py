"""Window attention in CUDA C++: tiles made in torch, then kernels, whose sums are added in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .._core import cuda_tables as _tables
from .._core.cuda import aligned, refuse_device
from .._core.plan import Facts
from .tables import Tables, extent, facts_of, gradient

DTYPES = (torch.float16, torch.bfloat16)


def refuse(facts: Facts) -> str | None:
    """Why the kernels cannot run, or None."""
    reason = refuse_device(facts, DTYPES)
    if reason is not None or "qkv" not in facts.shapes:
        return reason
    if "cosine_scale" in facts.shapes:
        return "it has dot products only, no cosines"
    tokens, keys, head_dim = extent(facts)
    if head_dim not in _tables.HEAD_DIMS:
        return f"head_dim={head_dim} is none of {', '.join(map(str, _tables.HEAD_DIMS))}"
    if max(tokens, keys) > _tables.LARGEST_WINDOW:
        return f"windows of {max(tokens, keys)} tokens are larger than {_tables.LARGEST_WINDOW}"
    return None


def configure(facts: Facts) -> Mapping[str, int]:
    """The launch configuration of both passes, for facts that are not refused; nothing where shapes are not known."""
    if "qkv" not in facts.shapes:
        return {}
    _, keys, head_dim = extent(facts)
    return _tables.window_attention(facts.capability, keys, head_dim)


def forward(qkv, bias, pad_kv, cosine_scale, **options) -> Tensor:
    """The output; arguments as `esvit_fast.ops.window_attention`."""
    config = configure(facts_of(qkv, options, pad_kv=pad_kv))
    given = _given(Tables(qkv, bias, pad_kv, options, config["programs"]))
    return _kernels().window_attention(*given, options["scale"], config["key_tiles"])


def backward(grad, qkv, bias, pad_kv, cosine_scale, **options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of qkv, bias, pad_kv and cosine_scale; empty ones for what is None."""
    config = configure(facts_of(qkv, options, pad_kv=pad_kv))
    tables = Tables(qkv, bias, pad_kv, options, config["programs_backward"])
    dqkv, dtiles, dpad_kv = _kernels().window_attention_backward(
        aligned(grad.contiguous()), *_given(tables), options["scale"], config["key_tiles"]
    )
    dpad_kv = None if tables.tensors["pad_kv"] is None else dpad_kv
    return dqkv, tables.bias_gradient(dtiles), gradient(pad_kv, dpad_kv, bias), bias.new_empty(0)


def _given(tables: Tables) -> tuple[Tensor | None, ...]:
    return tuple(None if x is None else aligned(x) for x in tables.tensors.values())


def _kernels():
    return torch.ops.esvit_fast_cuda

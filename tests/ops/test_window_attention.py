"""The window attention operator and its oracle, against an attention written token by token."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from esvit_fast import ops, reference
from tests import seeds

F64 = torch.float64


def by_token(
    qkv, bias, *, num_heads, window_size, shift_size, pad_kv, pad_mode, mask_value, scale=1.0, cosine_scale=None
):
    """Every query looks for its window mates in the padded, shifted map, one by one."""
    batch, height, width, channels = qkv.shape
    channels //= 3
    (wh, ww), (sh, sw) = window_size, shift_size
    full_h, full_w = math.ceil(height / wh) * wh, math.ceil(width / ww) * ww

    def source(y, x):
        """The map position shown at a position of the shifted map, or None for a pad."""
        if pad_mode == "before_roll":
            y, x = (y + sh) % full_h, (x + sw) % full_w
            return (y, x) if y < height and x < width else None
        return ((y + sh) % height, (x + sw) % width) if y < height and x < width else None

    def region(y, x):
        return y >= full_h - sh, x >= full_w - sw

    rows = []
    for b in range(batch):
        out = torch.zeros(height, width, channels, dtype=qkv.dtype)
        for y in range(full_h):
            for x in range(full_w):
                here = source(y, x)
                if here is None:
                    continue
                q = qkv[b, here[0], here[1], :channels].view(num_heads, -1) * scale
                logits, values = [], []
                for ky in range(y - y % wh, y - y % wh + wh):
                    for kx in range(x - x % ww, x - x % ww + ww):
                        there = source(ky, kx)
                        if there is None and pad_kv is None:
                            continue
                        kv = pad_kv if there is None else qkv[b, there[0], there[1], channels:]
                        k, v = kv.view(2, num_heads, -1)
                        if bias.ndim == 2:
                            offset = bias[(y - ky + wh - 1) * (2 * ww - 1) + x - kx + ww - 1]
                        else:
                            offset = bias[:, y % wh * ww + x % ww, ky % wh * ww + kx % ww]
                        mask = 0.0 if region(y, x) == region(ky, kx) else mask_value
                        score = (q * k).sum(-1)
                        if cosine_scale is not None:
                            score = cosine_scale * score / (q.norm(dim=-1) * k.norm(dim=-1))
                        logits.append(score + offset + mask)
                        values.append(v)
                weights = torch.stack(logits).softmax(0)  # [keys, heads]
                out[here] = (weights[..., None] * torch.stack(values)).sum(0).flatten()
        rows.append(out)
    return torch.stack(rows)


@st.composite
def cases(draw):
    window = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    heads, head_dim = draw(st.sampled_from([(1, 2), (2, 3), (3, 1)]))
    return {
        "size": draw(st.tuples(st.integers(1, 7), st.integers(1, 7))),
        "num_heads": heads,
        "channels": heads * head_dim,
        "window_size": window,
        "shift_size": tuple(draw(st.integers(0, w - 1)) for w in window),
        "pad_mode": draw(st.sampled_from(["before_roll", "after_roll"])),
        "mask_value": draw(st.sampled_from([-100.0, -200.0, float("-inf"), -1.0])),
        "pads_attended": draw(st.booleans()),
        "dense": draw(st.booleans()),
        "cosine": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**16)),
    }


def tensors(case, dtype=F64):
    generator = seeds.generator(case["seed"])

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    (wh, ww), heads, channels = case["window_size"], case["num_heads"], case["channels"]
    n = wh * ww
    qkv = normal(2, *case["size"], 3 * channels)
    bias = normal(heads, n, n) if case["dense"] else normal((2 * wh - 1) * (2 * ww - 1), heads)
    pad_kv = normal(2 * channels) if case["pads_attended"] else None
    return qkv, bias, pad_kv, 5 * normal(heads).abs() if case["cosine"] else None


def names(case):
    return [n for n, x in zip(("qkv", "bias", "pad_kv", "cosine_scale"), tensors(case), strict=True) if x is not None]


def options(case):
    return {name: case[name] for name in ("num_heads", "window_size", "shift_size", "pad_mode", "mask_value")}


@settings(max_examples=60, deadline=None)
@given(cases())
def test_equals_attention_token_by_token(case):
    qkv, bias, pad_kv, cosine_scale = tensors(case)
    scaled = {"pad_kv": pad_kv, **({"scale": 0.7} if cosine_scale is None else {"cosine_scale": cosine_scale})}
    expected = by_token(qkv, bias, **scaled, **options(case))
    for backend in ("cpu", "reference"):
        out = ops.window_attention(qkv, bias, **scaled, backend=backend, **options(case))
        torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(cases())
def test_gradients_equal_autograd_of_the_oracle(case):
    given = [x for x in tensors(case) if x is not None]
    grads = []
    for attend in (
        ops.window_attention,
        partial(reference.window_attention, scale=(case["channels"] / case["num_heads"]) ** -0.5),
    ):
        inputs = [x.clone().requires_grad_() for x in given]
        out = attend(**dict(zip(names(case), inputs, strict=True)), **options(case))
        weights = torch.randn(out.shape, generator=seeds.generator(1), dtype=F64)
        grads.append(torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-11, atol=1e-12)
        assert ours.isfinite().all()


CASE = {
    "size": (5, 3),
    "num_heads": 2,
    "channels": 4,
    "window_size": (4, 2),
    "shift_size": (2, 1),
    "pad_mode": "before_roll",
    "mask_value": -100.0,
    "pads_attended": True,
    "dense": False,
    "cosine": False,
    "seed": 0,
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    "change", [{}, {"pads_attended": False}, {"dense": True}, {"pad_mode": "after_roll"}, {"cosine": True}], ids=str
)
def test_gradcheck(change, backend):
    case = CASE | change
    inputs = [x.requires_grad_() for x in tensors(case) if x is not None]

    def attend(*given):
        return ops.window_attention(**dict(zip(names(case), given, strict=True)), backend=backend, **options(case))

    assert torch.autograd.gradcheck(attend, inputs)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("change", [{}, {"pads_attended": False}, {"dense": True}, {"cosine": True}], ids=str)
def test_opcheck(change, backend):
    given = tensors(CASE | change, torch.float32)
    rest = (2, (4, 2), (2, 1), "before_roll", -100.0, 0.5, backend)
    for x in given:
        if x is not None:
            x.requires_grad_()
    opcheck(torch.ops.esvit_fast.window_attention.default, (*given, *rest))
    strided = torch.randn(2, 3, 5, 12).transpose(1, 2)
    opcheck(torch.ops.esvit_fast.window_attention.default, (strided, given[1].detach(), None, None, *rest))
    detached = [None if x is None else x.detach() for x in given]
    opcheck(
        torch.ops.esvit_fast.window_attention_backward.default,
        (torch.randn(2, 3, 5, 4).transpose(1, 2), *detached, *rest),
    )


def test_compiles_without_graph_break():
    qkv, bias, pad_kv = (x.requires_grad_() for x in tensors(CASE, torch.float32)[:3])

    def loss(qkv, bias, pad_kv):
        return ops.window_attention(qkv, bias, pad_kv=pad_kv, **options(CASE)).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(qkv, bias, pad_kv), (qkv, bias, pad_kv))
    eager = torch.autograd.grad(loss(qkv, bias, pad_kv), (qkv, bias, pad_kv))
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b)


def test_second_derivative_is_refused_with_the_remedy():
    qkv, bias, *_ = tensors(CASE)
    qkv.requires_grad_()
    (grad,) = torch.autograd.grad(
        ops.window_attention(qkv, bias, **options(CASE)).square().sum(), qkv, create_graph=True
    )
    with pytest.raises(NotImplementedError, match=r"differentiable once.*reference\.window_attention"):
        grad.sum().backward()


def test_nan_stays_in_its_window():
    qkv, bias, *_ = tensors(CASE | {"size": (4, 4), "shift_size": (0, 0)})
    qkv[0, 1, 0, 0] = math.nan
    out = ops.window_attention(qkv, bias, num_heads=2, window_size=(4, 2))
    assert out[0, :, :2].isnan().any()
    assert out[0, :, 2:].isfinite().all() and out[1].isfinite().all()


def test_sizes_are_numbers_of_any_kind():
    qkv, table = torch.randn(1, 5, 6, 3 * 4), torch.randn(25, 1)
    plain = ops.window_attention(qkv, table, num_heads=1, window_size=3, shift_size=1)
    for window, shift in ((np.int64(3), np.int64(1)), ([3, 3], [1, 1]), (torch.Size((3, 3)), (np.int64(1), 1))):
        found = ops.window_attention(qkv, table, num_heads=1, window_size=window, shift_size=shift)
        assert torch.equal(found, plain)


def test_empty_batch():
    qkv, bias, pad_kv, _ = tensors(CASE)
    assert ops.window_attention(qkv[:0], bias, pad_kv=pad_kv, **options(CASE)).shape == (0, 5, 3, 4)


QKV, TABLE = torch.zeros(1, 4, 4, 12), torch.zeros(9, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"qkv": torch.zeros(1, 4, 4, 13)},
            ValueError,
            r"qkv has shape \(1, 4, 4, 13\); it must be \[B, H, W, 3 \* C\]",
        ),
        ({"qkv": QKV.int()}, TypeError, "qkv has dtype torch.int32"),
        ({"num_heads": 3}, ValueError, "num_heads=3 must divide C=4"),
        ({"bias": torch.zeros(8, 2)}, ValueError, r"bias has shape \(8, 2\).*\[9, 2\] or dense \[2, 4, 4\]"),
        ({"shift_size": (2, 0)}, ValueError, r"shift_size=\(2, 0\) must be smaller than window_size=\(2, 2\)"),
        ({"shift_size": -1}, ValueError, r"shift_size=\(-1, -1\) must be smaller"),
        ({"window_size": 0}, ValueError, r"window_size=\(0, 0\) must be two numbers of at least 1"),
        ({"pad_mode": "never"}, ValueError, "pad_mode='never' must be one of before_roll, after_roll"),
        ({"pad_kv": torch.zeros(4)}, ValueError, r"pad_kv has shape \(4,\); it must be \[2 \* C\] = \[8\]"),
        (
            {"cosine_scale": torch.zeros(3)},
            ValueError,
            r"cosine_scale has shape \(3,\); it must be \[num_heads\] = \[2\]",
        ),
        ({"cosine_scale": torch.zeros(2), "scale": 1.0}, ValueError, "scale=1.0 has no meaning beside cosine_scale"),
        ({"bias": torch.zeros(9, 2, device="meta")}, TypeError, "bias is on meta but qkv is on cpu"),
        ({"backend": "metal"}, ValueError, "backend='metal' must be one of cuda, triton, cpu, chunked, reference"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    call = {"qkv": QKV, "bias": TABLE, "num_heads": 2, "window_size": 2} | arguments
    with pytest.raises(error, match=message):
        ops.window_attention(call.pop("qkv"), call.pop("bias"), **call)

"""The CUDA kernels of window attention, thread by thread on the host, against the float64 oracle.

All that lies around them is what a GPU would get: only the two private operators are run by the executor.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from esvit_fast.ops._core import cuda_tables as _tables
from esvit_fast.ops.window_attention import cuda
from tests import seeds

from ..ops.test_window_attention_backends import assert_as_exact_as_torch
from . import executor

SOURCE = executor.HOST / "window_attention.cpp"
NAMES = {torch.float16: "half", torch.bfloat16: "bfloat16"}


def launch(kernel, key_tiles, scale, inputs, outputs):
    """Run one kernel; its reports are failures."""
    qkv, tiles, positions, shares = (inputs[name] for name in ("qkv", "tiles", "positions", "shares"))
    sizes = {
        "heads": tiles.shape[1],
        "channels": qkv.shape[3] // 3,
        "area": qkv.shape[1] * qkv.shape[2],
        "stride": positions.shape[1],
        "tile_rows": tiles.shape[2],
        "tile_columns": tiles.shape[3],
    }
    name = f"{kernel} {NAMES[qkv.dtype]} {sizes['channels'] // sizes['heads']} {key_tiles}"
    buffers = {n: None if x is None else ("in", x) for n, x in inputs.items()} | {
        n: ("out", x) for n, x in outputs.items()
    }
    grid = sizes["heads"] * len(shares)
    # the binding knows how many threads and how much shared memory
    reports = executor.run(executor.library(SOURCE), name, grid, 0, 0, buffers, {"scale": scale, **sizes})
    assert not reports, "\n".join(map(str, reports))


def forward(qkv, tiles, pad_kv, positions, shares, scale, key_tiles):
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    inputs = {"qkv": qkv, "tiles": tiles, "pad_kv": pad_kv, "positions": positions, "shares": shares}
    launch("forward", key_tiles, scale, inputs, {"out": out})
    return out


def backward(grad, qkv, tiles, pad_kv, positions, shares, scale, key_tiles):
    outputs = {
        "dqkv": torch.empty_like(qkv),
        "dtiles": tiles.new_empty(len(shares), *tiles.shape[1:]),
        "dpad_kv": tiles.new_empty(0 if pad_kv is None else len(shares), qkv.shape[3] // 3 * 2),
    }
    inputs = {"grad": grad, "qkv": qkv, "tiles": tiles, "pad_kv": pad_kv, "positions": positions, "shares": shares}
    given = {name: x for name, x in outputs.items() if name != "dpad_kv" or pad_kv is not None}
    launch("backward", key_tiles, scale, inputs, given)
    return tuple(outputs.values())


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch):
    kernels = SimpleNamespace(window_attention=forward, window_attention_backward=backward)
    monkeypatch.setattr(cuda, "_kernels", lambda: kernels)


def draw(seed):
    """Tensors and options of one problem that the kernels take; whole, padded, shifted and rectangular windows."""
    r = seeds.choices(seed)
    head_dim, most = _tables.HEAD_DIMS[seed % 3], (4, 16, 32, 56, 64)[seed // 3 % 5]
    while True:
        window = r.randint(1, 8), r.randint(1, 16)
        if window[0] * window[1] <= most:
            break
    size = [r.choice([r.randint(1, w), w, 2 * w, r.randint(1, 2 * w + 1)]) for w in window]
    heads = r.choice([1, 2, 3]) if head_dim < 64 else 1
    channels, dtype = heads * head_dim, r.choice(list(NAMES))
    g = seeds.generator(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    tokens = window[0] * window[1]
    table = (2 * window[0] - 1) * (2 * window[1] - 1), heads
    tensors = {
        "qkv": normal(r.randint(1, 2), *size, 3 * channels).to(dtype),
        "bias": normal(*((heads, tokens, tokens) if r.random() < 0.25 else table)).float(),
        "pad_kv": normal(2 * channels).to(dtype) if r.random() < 0.6 else None,
    }
    options = {
        "num_heads": heads,
        "window_size": window,
        "shift_size": tuple(r.randrange(w) if r.random() < 0.7 else 0 for w in window),
        "pad_mode": r.choice(["before_roll", "after_roll"]),
        "mask_value": r.choice([-100.0, -100.0, -200.0, float("-inf"), -3.0]),
    }
    return tensors, options


def on_the_executor(tensors, options, backend="cuda"):
    """Output and gradients, by name."""
    qkv, bias, pad_kv = tensors.values()
    options = {"scale": (qkv.shape[3] // 3 // options["num_heads"]) ** -0.5, **options}
    out = cuda.forward(qkv, bias, pad_kv, None, **options)
    weights = torch.randn(out.shape, generator=seeds.generator(1), dtype=torch.float64).to(out.dtype)
    grads = cuda.backward(weights, qkv, bias, pad_kv, None, **options)
    return {"out": out, **{name: grad for name, grad in zip(tensors, grads, strict=False) if tensors[name] is not None}}


def swin(size=(14, 17), window=7, heads=2, head_dim=32, dtype=torch.bfloat16, batch=2):
    """Tensors and options of a shifted layer of Swin, padded."""
    g = seeds.generator(0)
    qkv = torch.randn(batch, *size, 3 * heads * head_dim, generator=g).to(dtype)
    tensors = {
        "qkv": qkv,
        "bias": torch.randn((2 * window - 1) ** 2, heads, generator=g),
        "pad_kv": torch.randn(2 * heads * head_dim, generator=g).to(dtype),
    }
    options = {"num_heads": heads, "window_size": (window, window), "shift_size": (window // 2, window // 2)}
    return tensors, options | {"pad_mode": "before_roll", "mask_value": -100.0}


@pytest.mark.parametrize("seed", range(60))
def test_as_exact_as_torch(seed, monkeypatch):
    # every other problem has several windows for a block
    monkeypatch.setitem(_tables.PROCESSORS, 90, (1, 132)[seed % 2])
    tensors, options = draw(seed)
    try:
        assert_as_exact_as_torch(tensors, options, "cuda", run=on_the_executor)
    except AssertionError as error:
        shapes = {name: None if x is None else (tuple(x.shape), x.dtype) for name, x in tensors.items()}
        raise AssertionError(f"{shapes} {options}: {error}") from None


@pytest.mark.parametrize("window", [(2, 8), (4, 8), (7, 8), (8, 8)])
def test_windows_that_fill_all_columns_beside_padded_ones(window):
    """These have a virtual key, and those have no room for one."""
    tensors, options = swin(size=(window[0] + 1, 2 * window[1] - 1), batch=1)
    tensors["bias"] = torch.randn((2 * window[0] - 1) * (2 * window[1] - 1), 2)
    options |= {"window_size": window, "shift_size": (0, 0)}
    assert_as_exact_as_torch(tensors, options, "cuda", run=on_the_executor)


@pytest.mark.parametrize("window", [7, 8])
def test_the_same_bits_for_any_number_of_blocks(window, monkeypatch):
    """But for the small gradients, whose sums are divided otherwise: theirs are those of another run."""
    tensors, options = swin(window=window)
    found = []
    for processors in (132, 132, 1):
        monkeypatch.setitem(_tables.PROCESSORS, 90, processors)
        found.append(on_the_executor(tensors, options))
    for name, value in found[0].items():
        assert value.isfinite().all() and torch.equal(value, found[1][name]), name
        if name in ("out", "qkv"):
            assert torch.equal(value, found[2][name]), name


def test_an_empty_batch_has_gradients():
    tensors, options = swin()
    found = on_the_executor(tensors | {"qkv": tensors["qkv"][:0]}, options)
    assert found["out"].shape == (0, 14, 17, 64) and found["qkv"].shape == (0, 14, 17, 192)
    assert not found["bias"].any() and not found["pad_kv"].any()


def test_views():
    """A map that is not contiguous, and tensors that begin where no 16 bytes are loaded from."""
    tensors, options = swin(size=(9, 9), heads=1)
    plain = on_the_executor(tensors, options)
    strided = tensors["qkv"].transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    shifted = {name: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape) for name, x in tensors.items()}
    assert shifted["qkv"].data_ptr() % 16
    for other in (tensors | {"qkv": strided}, shifted):
        assert all(torch.equal(value, plain[name]) for name, value in on_the_executor(other, options).items())


@pytest.mark.parametrize("attended", [True, False])
def test_what_is_not_finite_stays_in_its_window(attended):
    """Rows beside a window's own, and places of tokens that are not there, are not multiplied, even by zero."""
    tensors, options = swin(size=(14, 17), heads=1)
    tensors["qkv"][0, 0, 0] = torch.nan
    if not attended:
        tensors["pad_kv"] = None
    found, options = on_the_executor(tensors, options), options | {"scale": 32**-0.5}
    window = torch.zeros(14, 17, dtype=torch.bool)
    window[[0, 1, 2, 10, 11, 12, 13], :3] = True  # as it is shifted by 3, with four columns of pads
    for name in ("out", "qkv"):
        assert torch.equal(found[name][0].isnan().any(-1), window) and found[name][1].isfinite().all(), name
    bias = torch.zeros(1, 49, 49)
    bias[0, 3] = -torch.inf
    out = cuda.forward(torch.randn(1, 7, 7, 96).half(), bias, None, None, **options | {"shift_size": (0, 0)})
    assert out.flatten(0, 2)[3].isnan().all() and out.isnan().sum() == 32

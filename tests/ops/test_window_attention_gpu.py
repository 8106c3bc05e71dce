"""Window attention on a GPU, on all backends with kernels for one: exactness, bits, many windows, large offsets."""

from __future__ import annotations

import pytest
import torch

from esvit_fast import ops
from tests import seeds

from .gpu import DEVICE, DTYPES, may_refuse, moved, needs_memory, on_kernels_of, same_bits, taken_by
from .harness import walled
from .test_window_attention_backends import assert_as_exact_as_torch, assert_scales_as_exact_as_torch, draw, results

pytestmark = on_kernels_of("window_attention")


def problem(seed, dtype, side=40, window=16):
    """As `draw`, in a dtype that the kernels compute."""
    tensors, options = draw(seed, side, window)
    wide = ("bias", "cosine_scale")
    tensors = {n: None if x is None else x.to(torch.float32 if n in wide else dtype) for n, x in tensors.items()}
    return moved(tensors), options


def problems(seeds, dtype, backend, **limits):
    """Those of the seeds that a backend does not refuse; the test is skipped if there are none."""
    found = 0
    for seed in seeds:
        tensors, options = problem(seed, dtype, **limits)
        try:
            ops.window_attention(**tensors, **options, backend=backend)
        except ops.BackendError as error:
            reason = str(error)
            continue
        found += 1
        yield seed, tensors, options
    if not found:
        assert may_refuse(backend), reason
        pytest.skip(reason)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("part", range(4))
def test_as_exact_as_torch(backend, dtype, part):
    """Output and all gradients against float64, on odd maps, windows, shifts, pads, heads and biases."""
    for seed, tensors, options in problems(range(6 * part, 6 * part + 6), dtype, backend):
        try:
            assert_as_exact_as_torch(tensors, options, backend)
        except AssertionError as error:
            raise AssertionError(f"seed={seed} {options}: {error}") from None


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_scales_of_cosines(backend, dtype):
    """They are one to three numbers, in which little shows: all problems count together."""
    found = problems(range(40), dtype, backend, side=12, window=8)
    assert_scales_as_exact_as_torch([(tensors, options) for _, tensors, options in found], backend)


SWIN = [(56, 96, 3, 7, 3), (14, 384, 12, 7, 3), (6, 384, 12, 7, 0), (3, 768, 24, 7, 0), (28, 256, 8, 14, 7)]


def layer(dtype, side, dim, heads, window, shift, batch=2):
    """Tensors and options of a layer of Swin."""
    g = seeds.generator(0)
    shapes = {"qkv": (batch, side, side, 3 * dim), "bias": ((2 * window - 1) ** 2, heads), "pad_kv": (2 * dim,)}
    tensors = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    tensors = {name: x if name == "bias" else x.to(dtype) for name, x in tensors.items()} | {"cosine_scale": None}
    return moved(tensors), {"num_heads": heads, "window_size": window, "shift_size": shift}


def taken(backend, tensors, options):
    """The results, or a skip where the CUDA library does not have this problem."""
    with taken_by(backend):
        return results(tensors, options, backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SWIN)
def test_layers_of_swin(backend, dtype, shape):
    tensors, options = layer(dtype, *shape)
    taken(backend, tensors, options)
    assert_as_exact_as_torch(tensors, options, backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [SWIN[0], SWIN[3], SWIN[4]])
def test_the_same_bits_in_every_run(backend, dtype, shape):
    tensors, options = layer(dtype, *shape, batch=8)
    first = taken(backend, tensors, options)
    assert all(same_bits(first, results(tensors, options, backend)) for _ in range(4))


def test_nothing_is_read_beside_the_inputs(backend):
    """Neighbours in memory are NaN; so is what is allocated, so that an element left unwritten shows."""
    for seed, tensors, options in problems(range(6), torch.float16, backend, side=20):
        plain = results(tensors, options, backend)
        inside = results({n: None if x is None else walled(x) for n, x in tensors.items()}, options, backend)
        for name, value in plain.items():
            assert value.isfinite().all() and torch.equal(value, inside[name]), (seed, name)


def test_more_windows_than_a_grid_has_in_its_second_dimension(backend):
    """67,600 windows, and as many with the head they are of."""
    side, options = 520, {"num_heads": 1, "window_size": 2, "shift_size": 1}
    tensors, _ = layer(torch.float16, side, 16, 1, 2, 1, batch=1)
    found, plain = taken(backend, tensors, options), results(tensors, options, "reference", torch.float64)
    for name in ("out", "qkv"):
        error = (found[name] - plain[name]).abs().max() / plain[name].abs().max()
        assert error < 4e-3, (name, error)


def test_offsets_of_more_than_31_bits(backend):
    """The last image of a batch with more than 2^31 numbers has the bits that it has alone."""
    needs_memory(20)
    side, dim, batch = 56, 96, 2400
    g = seeds.generator(0, DEVICE)
    qkv = torch.empty(batch, side, side, 3 * dim, dtype=torch.bfloat16, device=DEVICE)
    assert qkv.numel() > 2**31
    qkv.normal_(generator=g).requires_grad_()
    bias = torch.randn(13**2, 3, device=DEVICE, generator=g)
    call = {"num_heads": 3, "window_size": 7, "shift_size": 3, "backend": backend}
    with taken_by(backend):
        out = ops.window_attention(qkv, bias, **call)
    (grad,) = torch.autograd.grad(out, qkv, out.detach())
    alone = qkv[-1:].detach().clone().requires_grad_()
    out_alone = ops.window_attention(alone, bias, **call)
    (grad_alone,) = torch.autograd.grad(out_alone, alone, out_alone.detach())
    assert torch.equal(out[-1:], out_alone) and torch.equal(grad[-1:], grad_alone)

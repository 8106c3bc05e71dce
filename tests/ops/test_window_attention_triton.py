"""The Triton kernels in Triton's interpreter, against the float64 oracle; their division of work; their refusals.

The interpreter is chosen before triton is imported, so what runs in it runs in processes of its own: functions called
`check…`. It takes about ten milliseconds a program, and computes bfloat16 wrongly.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
from pathlib import Path

import pytest
import torch

from benchmarks.measuring.exactness import draws
from esvit_fast import ops
from esvit_fast.ops._core import triton as _device
from esvit_fast.ops.window_attention import shares as _shares
from esvit_fast.ops.window_attention import tables as _window_tables
from esvit_fast.ops.window_attention import windows as _windows
from tests import seeds

from .harness import assert_walls, run_in_the_interpreter, walled, walled_allocations
from .test_window_attention_backends import assert_as_exact_as_torch, draw, plainly, results

pytestmark = pytest.mark.skipif(_device.MISSING is not None, reason=str(_device.MISSING))


def problem(seed, side=10, window=8):
    """As `draw`, in the dtypes that the interpreter computes."""
    from esvit_fast.kernels import _tables

    tensors, options = draw(seed, side, window)
    dtype = (torch.float32, torch.float16)[seed % 2]
    # every other pair of problems has several windows for a program
    _tables.PROGRAMS[90] = (1, 528)[seed // 2 % 2]
    wide = ("bias", "cosine_scale")
    return {
        name: None if x is None else x.to(torch.float32 if name in wide else dtype) for name, x in tensors.items()
    }, options


def check(seeds, **limits):
    """Output and all gradients are as exact as plain torch's."""
    for seed in seeds:
        tensors, options = problem(seed, **limits)
        try:
            assert_as_exact_as_torch(tensors, options, "triton")
        except AssertionError as error:
            shapes = {name: None if x is None else (tuple(x.shape), x.dtype) for name, x in tensors.items()}
            raise AssertionError(f"seed={seed} {shapes} {options}: {error}") from None


def at_an_edge(x):
    """The same tensor in the last bytes of a page, after which none may be read: to read masked values is a crash."""
    size = -(-x.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    after = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + size)
    assert ctypes.CDLL(None).mprotect(after, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    return torch.frombuffer(memory, dtype=x.dtype, offset=size - x.nbytes, count=x.numel()).view(x.shape).copy_(x)


def check_tables():
    """The tables of positions and shares are read to their ends, and no further, even where that would not show."""
    _window_tables.cut = lambda *geometry: _shares.Cut(at_an_edge(_shares.cut(*geometry)[0]), _shares.cut(*geometry)[1])
    _window_tables.shares = lambda *of: _shares.Shares(at_an_edge(_shares.shares(*of)[0]), _shares.shares(*of)[1])
    for side, window in ((7, 5), (9, 9)):  # one block, and several
        qkv = torch.randn(1, side, side, 48)
        tensors = {"qkv": qkv, "bias": torch.zeros((2 * window - 1) ** 2, 1)}
        assert_as_exact_as_torch(tensors, {"num_heads": 1, "window_size": (window, window)}, "triton")


def check_refinement():
    """What large values and one heavy key take from a row's derivatives in float32, the kernels give back."""
    for side in (4, 10):  # one block, and several
        qkv = torch.randn(1, side - 1, side, 48, generator=seeds.generator(0))
        qkv[..., :16] = qkv[..., :16].abs()
        qkv[..., 32:] += 50
        pad_kv = torch.tensor([2.0, 50.0]).repeat_interleave(16)
        tensors = {"qkv": qkv, "bias": torch.zeros((2 * side - 1) ** 2, 1), "pad_kv": pad_kv}
        options = {"num_heads": 1, "window_size": side}
        ours, drawn = (
            results(tensors, options, "triton"),
            list(itertools.islice(draws(lambda drawn: plainly(*drawn), (tensors, options)), 8)),
        )
        for name in ("qkv", "bias", "pad_kv"):
            error = (ours[name].double() - drawn[0][1][name]).abs().max()
            torchs = max((plain[name].double() - exact[name]).abs().max() for plain, exact in drawn)
            assert 3 * error < torchs, f"side={side} {name}: {error:.1e}, torch {torchs:.1e}"


def check_walls(seeds, **limits):
    """Nothing beside the inputs is read, nothing beside the outputs is written, and all of them is."""
    for seed in seeds:
        tensors, options = problem(seed, **limits)
        plain = results(tensors, options, "triton")
        with walled_allocations() as walls:
            inside = results({n: None if x is None else walled(x) for n, x in tensors.items()}, options, "triton")
        assert len(walls) >= 3
        for name, value in plain.items():
            assert value.isfinite().all() and torch.equal(value, inside[name]), (seed, name)
        assert_walls(walls, seed)


def check_edges():
    """An empty batch, a map that is not contiguous, a row of -infinities beside others, float64 bias."""
    drawn = (problem(seed) for seed in itertools.count(5))
    tensors, options = next(each for each in drawn if min(each[0]["qkv"].shape[1:3]) > 1)
    for name, value in results(tensors | {"qkv": tensors["qkv"][:0]}, options, "triton").items():
        assert value.numel() == 0 if name in ("out", "qkv") else not value.any(), name
    strided = tensors["qkv"].transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    for name, value in results(tensors, options, "triton").items():
        assert torch.equal(value, results(tensors | {"qkv": strided}, options, "triton")[name]), name
    for side in (4, 10):  # one block, and several
        bias = torch.zeros(1, side * side, side * side, dtype=torch.float64)
        bias[0, 3] = -torch.inf
        qkv = torch.randn(1, side, side, 48)
        call = {"num_heads": 1, "window_size": side}
        out, plain = (ops.window_attention(qkv, bias, **call, backend=b) for b in ("triton", "reference"))
        assert out.flatten(0, 2)[3].isnan().all() and out.isnan().sum() == 16
        torch.testing.assert_close(out, plain.float(), equal_nan=True)
    for rows in (slice(3, 4), slice(0, 70)):  # of keys: what a block of keys has may be all that is not attended
        bias = torch.zeros(1, 100, 100)
        bias[:, :, rows] = -torch.inf
        out, plain = (ops.window_attention(qkv, bias, **call, backend=b) for b in ("triton", "reference"))
        assert out.isfinite().all()
        torch.testing.assert_close(out, plain)
    check_zeros()
    with pytest.raises(ops.BackendError, match="interpreter computes bfloat16 wrongly"):
        ops.window_attention(qkv.bfloat16(), bias, **call, backend="triton")
    with pytest.raises(ops.BackendError, match="head_dim=96 is more than 64"):
        ops.window_attention(torch.zeros(1, 2, 2, 288), torch.zeros(9, 1), num_heads=1, window_size=2, backend="triton")
    call = {"num_heads": 1, "window_size": 17, "backend": "triton"}
    with pytest.raises(ops.BackendError, match="windows of 289 tokens are larger than 256"):
        ops.window_attention(torch.zeros(1, 17, 17, 48), torch.zeros(33 * 33, 1), **call)


def check_zeros():
    """Cosines with a query and a key of length 0, whose own gradients have no limit in half precision."""
    for side in (4, 10):
        qkv = torch.randn(1, side, side, 48, dtype=torch.float16)
        qkv[0, 1, 2, :32] = 0
        tensors = {"qkv": qkv, "bias": torch.zeros((2 * side - 1) ** 2, 1), "cosine_scale": torch.tensor([3.0])}
        ours, plain = (results(tensors, {"num_heads": 1, "window_size": side}, b) for b in ("triton", "reference"))
        for name in ("out", "bias", "cosine_scale"):
            torch.testing.assert_close(ours[name], plain[name], rtol=3e-3, atol=3e-3)
        ours, plain = (x["qkv"].clone() for x in (ours, plain))
        ours[0, 1, 2, :32] = plain[0, 1, 2, :32] = 0
        torch.testing.assert_close(ours, plain, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize(
    "call",
    [
        "check(range(28))",
        "check(range(28, 48))",
        "check([5, 2072, *range(500, 510)], side=20, window=16)",
        "check_walls([0, 1, 2, 3, 135, 155, 271]); check_walls([504, 505], side=20, window=16)",
        "check_edges()",
        "check_tables()",
        "check_refinement()",
    ],
)
def test_in_the_interpreter(call):
    run_in_the_interpreter("tests.ops.test_window_attention_triton", call)


GEOMETRIES = [
    ((260, 260), (2, 2), (1, 1), "before_roll"),
    ((13, 30), (7, 4), (3, 1), "before_roll"),
    ((13, 30), (7, 4), (3, 1), "after_roll"),
    ((3, 3), (7, 7), (3, 3), "before_roll"),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_windows_lie_where_the_axes_say(geometry):
    (_, width), device = geometry[0], torch.device("cpu")
    cut, where = _shares.cut(*geometry, device), _windows.layout(*geometry, device)
    found = {}
    begin = 0
    for number, (tokens, windows) in enumerate(cut.classes):
        assert tokens == len(where.classes[number].tokens)
        for place in cut.positions[begin : begin + windows, :tokens].tolist():
            found[place[0]] = (number, place)
        begin += windows
    assert begin == len(cut.positions) == len(found)
    for kind_y, count_y, *y in where.rows.tolist():
        for kind_x, count_x, *x in where.columns.tolist():
            places = [a * width + b for a in y[:count_y] for b in x[:count_x]]
            assert found[places[0]] == (kind_y * where.column_kinds + kind_x, places)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("batch", "wanted"), [(1, 1), (5, 64), (4, 10_000), (0, 7)])
def test_every_window_is_in_one_share(geometry, batch, wanted):
    """Also of more windows than the second dimension of a grid may have."""
    cut = _shares.cut(*geometry, torch.device("cpu"))
    table, counts = _shares.shares(cut.classes, batch, wanted, torch.device("cpu"))
    assert sum(counts) == len(table) <= wanted + len(cut.classes)
    seen = []
    for klass, first, step, stop, begin, windows, tokens, _ in table.tolist():
        assert (tokens, windows) == cut.classes[klass]
        seen += [(item // windows, begin + item % windows) for item in range(first, stop, step)]
    assert len(seen) == len(set(seen)) == batch * len(cut.positions)
    assert batch == 0 or set(seen) == {(b, w) for b in range(batch) for w in range(len(cut.positions))}
    assert [row[0] for row in table.tolist()] == [c for c, count in enumerate(counts) for _ in range(count)]


def test_the_interpreter_is_not_chosen():
    qkv, table = torch.zeros(1, 2, 2, 12), torch.zeros(9, 1)
    with pytest.raises(ops.BackendError, match="triton: tensors are on cpu"):
        ops.window_attention(qkv, table, num_heads=1, window_size=2, backend="triton")


def test_there_is_no_second_copy_of_the_kernels(monkeypatch):
    """But a package of this name may be looked for, as transformers does."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    import kernels

    with pytest.raises(AttributeError, match=r"has no window_attention_fwd; import esvit_fast\.kernels"):
        kernels.window_attention_fwd  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match=r"kernels\.window_attention_fwd"):
        import kernels.window_attention_fwd
    assert getattr(kernels, "__version__", None) is None

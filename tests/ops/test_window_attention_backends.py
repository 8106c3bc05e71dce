"""Every backend that runs here against the float64 oracle, on seeded sweeps of shapes."""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch

from benchmarks.measuring.exactness import draws, judge, together
from esvit_fast import ops
from esvit_fast.ops._core import native
from tests import seeds

from .harness import refused_instruction_set, run, run_with_instruction_set, walled, with_threads

pytestmark = pytest.mark.skipif(native.CPU_MISSING is not None, reason=str(native.CPU_MISSING))
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def draw(seed, side=70, window=16):
    """Tensors and options of one problem; small maps, windows and pads are as likely as large ones."""
    r = seeds.choices(seed)
    size = [r.randint(1, r.choice([4, 16, side])) for _ in range(2)]
    window_size = tuple(r.randint(2, r.choice([4, 8, window])) for _ in range(2))
    heads, head_dim = r.choice([(1, 16), (2, 32), (3, 8), (1, 64), (2, 20)])
    n, channels = window_size[0] * window_size[1], heads * head_dim
    dtype = r.choice(DTYPES)
    g = seeds.generator(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    table = ((2 * window_size[0] - 1) * (2 * window_size[1] - 1), heads)
    tensors = {
        "qkv": normal(r.randint(1, 2), *size, 3 * channels).to(dtype),
        "bias": normal(*((heads, n, n) if r.random() < 0.25 else table)).to(torch.promote_types(dtype, torch.float32)),
        "pad_kv": normal(2 * channels).to(dtype) if r.random() < 0.7 else None,
        "cosine_scale": None,
    }
    if r.random() < 0.3:
        tensors["cosine_scale"] = (8 * normal(heads).abs()).to(tensors["bias"].dtype)
    options = {
        "num_heads": heads,
        "window_size": window_size,
        "shift_size": tuple(r.randrange(w) if r.random() < 0.7 else 0 for w in window_size),
        "pad_mode": r.choice(["before_roll", "after_roll"]),
        "mask_value": r.choice([-100.0, -100.0, -200.0, float("-inf"), -3.0]),
    }
    return tensors, options


def results(tensors, options, backend, dtype=None):
    """Output and gradients, by name."""
    given = {
        name: None if x is None else x.detach().to(dtype or x.dtype).requires_grad_() for name, x in tensors.items()
    }
    out = ops.window_attention(**given, backend=backend, **options)
    weights = torch.randn(out.shape, generator=seeds.generator(1), dtype=torch.float64)
    inputs = {name: x for name, x in given.items() if x is not None}
    grads = torch.autograd.grad(out, list(inputs.values()), weights.to(out))
    return {"out": out.detach(), **dict(zip(inputs, grads, strict=True))}


def plainly(tensors, options):
    """A draw for `judge`: results of plain torch, of float64 in float32, and the exact ones."""
    narrow = {name: x.float() if x is not None and x.dtype == torch.float64 else x for name, x in tensors.items()}
    return results(narrow, options, "reference"), results(narrow, options, "reference", torch.float64)


def assert_as_exact_as_torch(tensors, options, backend, run=results):
    """Outputs and gradients of a backend, or of what `run` runs by its name."""
    ours, dtype = run(tensors, options, backend), tensors["qkv"].dtype
    for name, value in ours.items():
        given = tensors["qkv" if name == "out" else name]
        assert value.dtype == given.dtype and (name == "out" or value.shape == given.shape)
    exact = results(tensors, options, "reference", dtype) if dtype == torch.float64 else None
    judged = judge(ours, draws(lambda drawn: plainly(drawn, options), tensors), exact=exact, dtype=dtype)
    assert judged.ratio <= 1, judged


def scales(tensors, options):
    """A few draws of the gradient of scales of cosines."""

    def evaluate(drawn):
        return tuple({"cosine_scale": x["cosine_scale"]} for x in plainly(drawn, options))

    return list(itertools.islice(draws(evaluate, tensors), 8))


def assert_scales_as_exact_as_torch(problems, backend, run=results):
    """The gradients of scales of cosines of all problems that have some, as if they were one result."""
    problems = [(tensors, options) for tensors, options in problems if tensors["cosine_scale"] is not None]
    if not problems:
        pytest.skip(f"{backend} has no cosines")
    found = [{"cosine_scale": run(*problem, backend)["cosine_scale"]} for problem in problems]
    judged = together(found, [scales(*problem) for problem in problems])
    assert judged.ratio <= 1, judged


def check(seed):
    tensors, options = draw(seed)
    try:
        assert_as_exact_as_torch(tensors, options, "cpu")
    except AssertionError as error:
        shapes = {name: None if x is None else (tuple(x.shape), x.dtype) for name, x in tensors.items()}
        raise AssertionError(f"seed={seed} {shapes} {options}: {error}") from None


@pytest.mark.parametrize("part", range(10))
def test_cpu_is_as_exact_as_torch(part):
    for seed in range(50 * part, 50 * part + 50):
        check(seed)


def test_gradients_where_one_key_has_nearly_all_weight():
    """What a row's mean is subtracted from is then nearly equal to it: found once, the mean errs as much as torch's;
    found a second time from what differs from the first, half as much."""
    options = {"num_heads": 2, "window_size": (4, 6), "shift_size": (0, 5), "pad_mode": "before_roll"}
    options["mask_value"] = -100.0
    ratios = []
    for seed in range(80):
        g = seeds.generator(1000 + seed)
        shapes = {"qkv": (1, 1 + seed % 2, 3 - seed % 2, 192), "bias": (77, 2), "pad_kv": (128,)}
        tensors = {name: torch.randn(*shape, generator=g) for name, shape in shapes.items()}
        tensors = tensors | {"qkv": 4 * tensors["qkv"], "cosine_scale": None}
        exact = results(tensors, options, "reference", torch.float64)
        ours, torchs = (
            max(((found[n] - exact[n]).abs().max() / exact[n].abs().max()).item() for n in ("qkv", "bias"))
            for found in (results(tensors, options, backend) for backend in ("cpu", "reference"))
        )
        ratios.append(ours / torchs)
    assert statistics.median(ratios) < 0.8, ratios


def test_gradients_of_scales_of_cosines():
    """They are one to three numbers, in which little shows: all problems count together."""
    found = (draw(seed, side=12, window=8) for seed in range(200))
    assert_scales_as_exact_as_torch([p for p in found if p[0]["qkv"].dtype == torch.float32], "cpu")


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "sse9"])
def test_every_instruction_set(isa):
    """The machine's widest runs by default; the others in processes of their own."""
    code = (
        "from tests.ops import test_linear as l, test_window_attention_backends as t\n"
        "for seed in range(40): t.check(seed)\n"
        "for part in range(2): l.test_cpu_is_as_exact_as_torch(part)"
    )
    if isa == "sse9":
        assert refused_instruction_set(isa) in run(code, ESVIT_FAST_CPU_ISA=isa).stderr
        return
    run_with_instruction_set(isa, code)


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_read_beside_the_inputs(seed):
    """Neighbours in memory are NaN; so is what torch.empty gives, so that an element left unwritten shows."""
    tensors, options = draw(seed, side=20, window=8)
    plain = results(tensors, options, "cpu")
    inside = results({n: None if x is None else walled(x) for n, x in tensors.items()}, options, "cpu")
    for name, value in plain.items():
        assert value.isfinite().all() and torch.equal(value, inside[name]), name


@pytest.mark.parametrize(("window", "heads", "size"), [(14, 1, 70), (7, 14, 33), (4, 3, 41)])
def test_the_same_bits_for_any_number_of_threads(window, heads, size):
    """As in a user's process: where torch is not told to be deterministic."""
    g = seeds.generator(0)
    channels = 16 * heads
    tensors = {
        "qkv": torch.randn(3, size, size, 3 * channels, generator=g),
        "bias": torch.randn((2 * window - 1) ** 2, heads, generator=g),
        "pad_kv": torch.randn(2 * channels, generator=g),
    }
    options = {"num_heads": heads, "window_size": window, "shift_size": window // 2}
    torch.use_deterministic_algorithms(False)
    try:
        first, *others = with_threads(lambda: results(tensors, options, "cpu"), 1, 2, 4, 4)
    finally:
        torch.use_deterministic_algorithms(True)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in other)


def test_any_nan_stays_nan():
    """Of any payload: the exponential works on bits."""
    for dtype, integer in ((torch.float32, torch.int32), (torch.float64, torch.int64)):
        qkv = torch.zeros(1, 2, 4, 3 * 4, dtype=dtype)
        qkv[0, 0, 0, 0] = torch.tensor(-1, dtype=integer).view(dtype)
        out = ops.window_attention(qkv, torch.zeros(9, 1, dtype=dtype), num_heads=1, window_size=2, backend="cpu")
        assert out[0, 0, 0].isnan().all() and out[0, :, 2:].isfinite().all()


def test_strided_maps_and_gradients():
    qkv, table = torch.randn(2, 9, 13, 3 * 32, requires_grad=True), torch.randn(25, 2, requires_grad=True)
    call = {"num_heads": 2, "window_size": 3, "shift_size": 1, "backend": "cpu"}

    def gradients(qkv, grad):
        return torch.autograd.grad(ops.window_attention(qkv, table, **call), (qkv, table), grad)

    strided = qkv.transpose(1, 2).contiguous().transpose(1, 2).detach().requires_grad_()
    assert not strided.is_contiguous()
    transposed, expanded = torch.randn(2, 13, 9, 32).transpose(1, 2), torch.randn(1, 1, 1, 1).expand(2, 9, 13, 32)
    for grad in (transposed, expanded):
        plain = gradients(qkv, grad.contiguous())
        for found in (gradients(qkv, grad), gradients(strided, grad)):
            assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("case", [(24, 20, 5), (7, 24, 3), (16, 32, 14)])
def test_groups_of_heads_are_as_exact(case):
    """With more threads than shares, heads are gathered in groups."""
    heads, head_dim, window = case
    g = seeds.generator(0)
    tensors = {
        "qkv": torch.randn(1, 9, 8, 3 * heads * head_dim, generator=g),
        "bias": torch.randn((2 * window - 1) ** 2, heads, generator=g),
        "pad_kv": torch.randn(2 * heads * head_dim, generator=g),
        "cosine_scale": None,
    }
    options = {"num_heads": heads, "window_size": window, "shift_size": 1}
    with_threads(lambda: assert_as_exact_as_torch(tensors, options, "cpu"), 8)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_nothing_but_what_is_there_is_read_of_a_bias(backend):
    """Pads that a query may not see, in a dense bias; an entry of a table that no pair has."""
    qkv, pad_kv = torch.randn(1, 5, 5, 3 * 8, requires_grad=True), torch.randn(16, requires_grad=True)
    dense = torch.zeros(1, 16, 16)
    dense[:, 0, 1:] = -torch.inf
    dense.requires_grad_()
    out = ops.window_attention(qkv, dense, num_heads=1, window_size=4, pad_kv=pad_kv, backend=backend)
    for grad in torch.autograd.grad(out.sum(), (qkv, dense, pad_kv)):
        assert grad.isfinite().all()
    table = torch.zeros(49, 1)
    table[0] = torch.nan
    out = ops.window_attention(qkv[:, :3, :3], table, num_heads=1, window_size=4, backend=backend)
    assert out.isfinite().all()


def test_an_empty_batch_has_gradients():
    qkv, table = torch.randn(0, 5, 5, 3 * 8, requires_grad=True), torch.randn(49, 2, requires_grad=True)
    out = ops.window_attention(qkv, table, num_heads=2, window_size=4, backend="cpu")
    dqkv, dtable = torch.autograd.grad(out.sum(), (qkv, table))
    assert dqkv.shape == qkv.shape and not dtable.any()


def test_more_windows_than_a_grid_dimension_may_have():
    qkv = torch.randn(2, 260, 260, 3 * 4)
    table = torch.randn(9, 1)
    out = {b: ops.window_attention(qkv, table, num_heads=1, window_size=2, backend=b) for b in ("cpu", "reference")}
    torch.testing.assert_close(out["cpu"], out["reference"])


def test_what_inference_left_behind_serves_training():
    qkv, table = torch.randn(1, 9, 13, 3 * 4), torch.randn(25, 1).requires_grad_()
    call = {"num_heads": 1, "window_size": 3, "shift_size": 1, "backend": "cpu"}
    with torch.inference_mode():
        ops.window_attention(qkv, table, **call)
    ops.window_attention(qkv, table, **call).sum().backward()
    assert table.grad.isfinite().all()

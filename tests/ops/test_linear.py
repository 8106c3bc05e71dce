"""The linear operator: its backends against float64, and the module that calls it."""

import signal
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

from benchmarks.measuring.exactness import doubles, draws, judge
from esvit_fast import nn, ops
from esvit_fast.ops._core import native
from tests import seeds

from .harness import walled, with_threads

NATIVE = pytest.mark.skipif(native.CPU_MISSING is not None, reason=str(native.CPU_MISSING))

NAMES = ("out", "x", "weight", "bias")


def seeded(seed):
    return seeds.generator(seed)


def draw(seed):
    """x, weight, bias or None, in float64."""
    r, g = seeds.choices(seed), seeded(seed)
    lead = [(r.randint(1, 700),), (r.randint(1, 3), r.randint(1, 9), r.randint(1, 40)), ()][seed % 3]
    ins, outs = r.choice([1, 3, 16, 20, 64, 96, 130, r.randint(1, 300)]), r.choice([1, 7, 24, 96, r.randint(1, 300)])
    x, weight, bias = (
        torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((*lead, ins), (outs, ins), (outs,))
    )
    return x, weight, bias if r.random() < 0.7 else None


def results(tensors, run, dtype=None):
    given = [None if x is None else x.detach().to(dtype or x.dtype).requires_grad_() for x in tensors]
    out = run(*given)
    weights = torch.rand(out.shape, generator=seeded(1), dtype=torch.float64)
    return out.detach(), *torch.autograd.grad(out, [x for x in given if x is not None], weights.float().to(out.dtype))


@NATIVE
@pytest.mark.parametrize("part", range(4))
def test_cpu_is_as_exact_as_torch(part):
    for seed in range(25 * part, 25 * part + 25):
        tensors = draw(seed)
        rounded = [None if x is None else x.float().double() for x in tensors]
        truth = results(rounded, F.linear)
        plain = results(tensors, F.linear, torch.float32)
        ours = results(tensors, lambda *xs: ops.linear(*xs, backend="cpu"), torch.float32)
        magnitude = results([None if x is None else x.abs() for x in rounded], F.linear)
        for name, exact, theirs, found, most in zip(NAMES, truth, plain, ours, magnitude, strict=False):
            assert found.dtype == torch.float32 and found.shape == exact.shape
            # two roundings of what is added, of the n that a sum of n may have, whatever plain torch's luck
            allowed = 2 * (theirs - exact).abs().max() + torch.finfo(torch.float32).eps * most.abs().max()
            assert (found - exact).abs().max() <= allowed, f"seed {seed} {name}"


@pytest.mark.parametrize("missing", [None, 0, 1, 2])
def test_gradcheck(missing):
    tensors = [
        torch.randn(*s, dtype=torch.float64, requires_grad=i != missing) for i, s in enumerate([(5, 3), (4, 3), (4,)])
    ]
    assert torch.autograd.gradcheck(lambda *xs: ops.linear(*xs, backend="reference"), tensors)
    assert torch.autograd.gradgradcheck(lambda *xs: ops.linear(*xs, backend="reference"), tensors)


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=NATIVE), "reference"])
def test_second_derivatives_are_torchs(backend):
    def penalty(run, x, weight, bias):
        (grad,) = torch.autograd.grad(run(x, weight, bias).square().sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), (x, weight, bias))

    given = [torch.randn(shape, generator=seeded(0), dtype=torch.float64) for shape in ((2, 5, 20), (7, 20), (7,))]
    given = [x.float().requires_grad_() for x in given]
    ours = penalty(lambda *xs: ops.linear(*xs, backend=backend), *given)
    judged = judge(ours, draws(lambda drawn: (penalty(F.linear, *drawn), penalty(F.linear, *doubles(drawn))), given))
    assert judged.ratio <= 1, judged


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=NATIVE), "reference"])
@pytest.mark.parametrize("shapes", [((6, 20), (0, 20)), ((6, 0), (7, 0)), ((0, 3, 4), (5, 4)), ((4,), (5, 4))])
def test_sizes_of_zero_and_single_rows(backend, shapes):
    x, weight = (torch.randn(shape, requires_grad=True) for shape in shapes)
    bias = torch.randn(shapes[1][0], requires_grad=True)
    ours, theirs = (run(x, weight, bias) for run in (lambda *xs: ops.linear(*xs, backend=backend), F.linear))
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(y.sum(), (x, weight, bias)) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


def test_inputs_of_frozen_layers_are_not_kept():
    x, weight = torch.randn(2, 20, requires_grad=True), torch.randn(7, 20)
    for given in ((x, weight), (x.detach(), weight.clone().requires_grad_())):
        out = ops.linear(*given)
        assert [y is None for y in out.grad_fn.saved_tensors] == [y.requires_grad for y in given]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own
def test_torch_func_and_forward_mode():
    """Through the module as torch does; the operator says what it cannot do."""
    module, x = nn.Linear(20, 7), torch.randn(3, 20)

    def loss(x):
        return module(x).square().sum()

    (expected,) = torch.autograd.grad(loss(x.requires_grad_()), x)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    _, tangent = torch.func.jvp(module, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, module.weight.sum(1).expand(3, 7))
    for transform in (torch.func.grad, lambda f: lambda x: torch.func.jvp(f, (x,), (x,))):
        with pytest.raises(NotImplementedError, match=r"linear has reverse-mode derivatives only.*reference\.linear"):
            transform(lambda x: ops.linear(x, module.weight).sum())(x)


def test_another_backend_is_compiled_without_a_warning():
    x, weight = torch.randn(3, 20, dtype=torch.float64), torch.randn(7, 20, dtype=torch.float64)
    compiled = torch.compile(lambda x, w: ops.linear(x, w), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight), x @ weight.t())


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=NATIVE), "reference"])
def test_opcheck(backend):
    x, weight, bias = torch.randn(2, 3, 20), torch.randn(7, 20), torch.randn(7)
    for given in ((x, weight, bias), (x, weight, None), (x[:0], weight, bias), (x.transpose(0, 1), weight, bias)):
        opcheck(torch.ops.esvit_fast.linear.default, (*given, backend))
        given = [None if y is None else y.detach().requires_grad_() for y in given]
        opcheck(torch.ops.esvit_fast.linear.default, (*given, backend))
    opcheck(torch.ops.esvit_fast.linear_backward.default, (x, None, torch.randn(20, 5), [True, False, True], backend))
    for mask in ([True] * 3, [False, True, False], [True, False, False], [False, False, True]):
        opcheck(torch.ops.esvit_fast.linear_backward.default, (torch.randn(2, 3, 7), x, weight, mask, backend))


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=NATIVE), "reference"])
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_the_output_may_be_changed_in_place(backend, shape):
    weight = torch.randn(5, 4, requires_grad=True)
    out = ops.linear(torch.randn(shape), weight, backend=backend)
    assert not out._is_view()
    out.relu_().sum().backward()
    assert weight.grad.isfinite().all()


@NATIVE
@pytest.mark.parametrize("which", range(3))
def test_tensors_may_lie_in_any_way(which):
    """Turned, in every other place, or the same everywhere."""
    x, weight, bias = (torch.randn(shape) for shape in ((6, 8), (5, 8), (5,)))
    for lie in (
        lambda t: t.t().contiguous().t(),
        lambda t: t.repeat_interleave(2, -1)[..., ::2],
        lambda t: t[:1].expand_as(t),
    ):
        given = [lie(t) if i == which else t for i, t in enumerate((x, weight, bias))]
        torch.testing.assert_close(ops.linear(*given, backend="cpu"), F.linear(*given))


def kernels(tokens, outs, ins):
    """Calls of the kernels, and the tensors that each takes."""
    x, weight, bias, grad = (torch.randn(shape) for shape in ((tokens, ins), (outs, ins), (outs,), (tokens, outs)))
    library = torch.ops.esvit_fast_cpu
    return {
        "linear": (lambda *given: (library.linear(*given, True),), (x, weight, bias)),
        "without a bias": (lambda *given: (library.linear(*given, None, True),), (x, weight)),
        "gradient of x": (lambda *given: (library.linear(*given, None, False),), (grad, weight)),
        "gradient of the weight": (library.linear_weight_gradient, (grad, x)),
    }


# single numbers, partial vectors and panels, several blocks of channels and of tokens, and nothing
SIZES = [
    *((1, 1, 1), (7, 64, 512), (128, 24, 64), (130, 25, 70), (257, 3, 130), (513, 65, 257)),
    *((1000, 150, 70), (1030, 130, 300), (0, 5, 3), (6, 7, 0)),
]


@NATIVE
@pytest.mark.parametrize("which", kernels(1, 1, 1))
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_same_bits_for_any_number_of_threads(which, sizes):
    call, given = kernels(*sizes)[which]
    first, *others = with_threads(lambda: call(*given), 1, 2, 3, 8)
    for other in others:
        assert all(map(torch.equal, first, other))


@NATIVE
@pytest.mark.parametrize("which", ["linear", "without a bias", "gradient of x"])
def test_a_row_does_not_depend_on_others(which):
    call, (x, *others) = kernels(1030, 130, 300)[which]
    (out,) = call(x, *others)
    for rows in (slice(0, 1), slice(5, 12), slice(500, 1030)):
        assert torch.equal(call(x[rows].contiguous(), *others)[0], out[rows])


@NATIVE
@pytest.mark.parametrize("which", kernels(1, 1, 1))
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_nothing_beside_the_tensors_is_read(which, sizes):
    call, given = kernels(*sizes)[which]
    for plain, inside in zip(call(*given), call(*map(walled, given)), strict=True):
        assert plain.isfinite().all() and torch.equal(plain, inside)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"weight": torch.zeros(3, 5)},
            ValueError,
            r"weight has shape \(3, 5\); for x \(2, 4\) it must be \[out, 4\]",
        ),
        ({"bias": torch.zeros(4)}, ValueError, r"bias has shape \(4,\); it must be \[out\] = \[3\]"),
        ({"weight": torch.zeros(3, 4, dtype=torch.float64)}, TypeError, "weight has dtype torch.float64; all must"),
        ({"x": torch.zeros(2, 4, dtype=torch.int64)}, TypeError, "x has dtype torch.int64"),
        ({"weight": torch.zeros(3, 4, device="meta")}, TypeError, "weight is on meta but x is on cpu"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        ops.linear(**({"x": torch.zeros(2, 4), "weight": torch.zeros(3, 4), "bias": torch.zeros(3)} | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_module_is_torchs(dtype):
    torch.manual_seed(seeds.shifted(0))
    ours = nn.Linear(20, 7, dtype=dtype)
    torch.manual_seed(seeds.shifted(0))
    theirs = torch.nn.Linear(20, 7, dtype=dtype)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(3, 20, dtype=dtype)
    torch.testing.assert_close(ours(x), theirs(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(x).dtype == theirs(x).dtype


def test_compiles_without_graph_break():
    module, x = nn.Linear(20, 7), torch.randn(3, 20, requires_grad=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for a, b in zip(
        *(torch.autograd.grad(m(x).square().sum(), [x, *module.parameters()]) for m in (compiled, module)), strict=True
    ):
        torch.testing.assert_close(a, b)


SIGNALLED = """
import signal, time, torch
from esvit_fast import ops
torch.set_num_threads(1)
signal.signal(signal.SIGALRM, lambda *_: None)
x, weight, bias = torch.randn(256, 96), torch.randn(384, 96, requires_grad=True), torch.randn(384)
x.requires_grad_()
def step():
    out = ops.linear(x, weight, bias, backend="cpu")
    return out, *torch.autograd.grad(out, (x, weight), out.detach())
expected, begin = step(), time.monotonic()
signal.setitimer(signal.ITIMER_REAL, 5e-4, 5e-4)
while time.monotonic() - begin < 2:
    others = [torch.ones(64 * n) for n in range(1, 40)]
    assert all(map(torch.equal, step(), expected))
    assert all((other == 1).all() for other in others)
signal.setitimer(signal.ITIMER_REAL, 0)
"""


@NATIVE
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timer that signals")
def test_signals_write_into_no_memory():
    """They do where kernels move the stack pointer there, as some of oneDNN do. Pytest itself has another stack."""
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr

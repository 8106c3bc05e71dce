"""The cross-entropy over prototypes on the CPU, and in chunks: exact at any size, and small."""

import pytest
import torch

from esvit_fast import ops
from esvit_fast.ops._core import native
from esvit_fast.ops.prototype_cross_entropy import chunked
from tests import seeds

from .harness import run_with_instruction_set, with_threads
from .problems import (
    DEMANDED,
    REGIMES,
    TEMPERATURES,
    assert_exact_in,
    drawn_from,
    exactly,
    lengths,
    problem,
    regime,
    results,
    rounded,
)

pytestmark = pytest.mark.skipif(native.CPU_MISSING is not None, reason=str(native.CPU_MISSING))
each_backend = pytest.mark.parametrize("backend", ["cpu", "chunked"])
profiled = pytest.mark.filterwarnings("ignore:.*Profiler clears events")


def drawn(seed):
    """A problem of any size, in float64."""
    r = seeds.choices(seed)
    sizes = {
        "rows": r.choice([1, 3, r.randint(1, 40), r.randint(1, 600)]),
        "teachers": r.choice([1, r.randint(1, 40), r.randint(1, 300)]),
        "prototypes": r.choice([1, 2, 127, 129, r.randint(1, 700), r.randint(1, 5000)]),
        "width": r.choice([1, 3, 16, 20, 48, r.randint(1, 300)]),
        "pairs": r.randint(1, 900),
    }
    matrices = problem(**sizes, seed=seed)
    options = TEMPERATURES | (lengths(sizes["prototypes"], seed=seed) if seed % 2 else {})
    scale = sizes["width"] ** -0.5, 1.0
    return [x * scale[i % 2] for i, x in enumerate(matrices[:4])] + list(matrices[4:]), options


def assert_close(found, truth, tolerance, what, drawn=()):
    """Relative to the norm, and to what all pairs weigh: with one prototype everything is 0. Or at most twice as far
    off as plain torch in any of the draws."""
    *_, pairs = what[0]
    ratios, torchs = [], [0.0] * len(found)
    for ours, exact in zip(found, truth, strict=True):
        assert ours.shape == exact.shape
        ratios.append(((ours - exact).norm() / (tolerance * (exact.norm() + pairs.weight.sum()))).item())
    for plain, exact in drawn if max(ratios) > 1 else ():
        torchs = [max(t, float((x - y).norm())) for t, x, y in zip(torchs, plain, exact, strict=True)]
        if all(r <= 1 or (x - y).norm() <= 2 * t for r, t, x, y in zip(ratios, torchs, found, truth, strict=True)):
            return
    assert max(ratios) <= 1, (what[1], ratios, torchs)


@each_backend
@pytest.mark.parametrize("part", range(4))
def test_equals_the_oracle_at_any_size(part, backend, monkeypatch):
    monkeypatch.setattr(chunked, "SCORES", 50_000)
    for seed in range(10 * part, 10 * part + 10):
        matrices, options = drawn(seed)
        truth = results(matrices, options, "reference")
        assert_close(results(matrices, options, backend), truth, 1e-13, (matrices, seed))
        given = rounded(matrices, options, torch.float32)
        assert_close(results(*given, backend), exactly(*given), 1e-6, (matrices, seed), drawn_from(given))


@each_backend
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", REGIMES)
def test_errors_in_every_state_of_a_run(name, seed, backend):
    for sizes in ({}, {"rows": 20, "teachers": 12, "prototypes": 2048, "width": 256}):
        (*tensors, pairs), options = regime(name, seed=seed, **sizes)
        for dtype in DEMANDED:
            given = rounded((*tensors, pairs), options, dtype)
            assert_exact_in(name, results(*given, backend), drawn_from(given), dtype, pairs)


@profiled
def test_frozen_prototypes_cost_no_memory_of_their_size():
    student, weight, *rest = problem(torch.float32, rows=16, teachers=16, prototypes=20_000, width=256)
    student.requires_grad_()
    assert (
        _largest(lambda: ops.prototype_cross_entropy(student, weight, *rest, **TEMPERATURES)[0].backward())
        < weight.nbytes / 4
    )
    weight.requires_grad_()
    both = _largest(lambda: ops.prototype_cross_entropy(student, weight, *rest, **TEMPERATURES)[0].backward())
    assert both == weight.nbytes


def _largest(run):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    return max(e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]")


@each_backend
@profiled
def test_no_logits_are_held(backend, monkeypatch):
    monkeypatch.setattr(chunked, "SCORES", 32 << 20)
    student, weight, *rest = problem(torch.float32, rows=3000, teachers=1000, prototypes=20_000, width=32, pairs=4000)
    student.requires_grad_(), weight.requires_grad_()
    options = {**TEMPERATURES, "backend": backend}
    largest = _largest(lambda: ops.prototype_cross_entropy(student, weight, *rest, **options)[0].backward())
    assert largest <= 32 << 20 < 1000 * 20_000 * 4


def test_the_same_bits_for_any_number_of_threads():
    matrices = problem(torch.float32, rows=530, teachers=300, prototypes=3000, width=40)
    options = TEMPERATURES | lengths(3000, torch.float32)
    first, *others = with_threads(lambda: results(matrices, options, "cpu"), 1, 2, 5)
    for found in others:
        assert all(map(torch.equal, found, first))


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set(isa):
    code = (
        "import torch; from tests.ops.test_prototype_cross_entropy_backends import assert_close, drawn, results\n"
        "for seed in range(12):\n"
        "    matrices, options = drawn(seed)\n"
        "    truth, found = (results(matrices, options, b) for b in ('reference', 'cpu'))\n"
        "    assert_close(found, truth, 1e-13, (matrices, seed))"
    )
    run_with_instruction_set(isa, code)

"""The loss over prototypes on a GPU, on all backends with kernels for one, against the float64 oracle."""

from __future__ import annotations

import pytest
import torch

from esvit_fast import ops

from .gpu import DEVICE, DTYPES, moved, needs_memory, on_kernels_of, same_bits, taken_by
from .problems import REGIMES, TEMPERATURES, regime, results
from .test_prototype_cross_entropy_triton import SIZES, assert_close, autocast, drawn, rounded

pytestmark = on_kernels_of("prototype_cross_entropy")
ALLOWED = {
    torch.float32: (1e-6, 2e-6, 5e-6),
    torch.float16: (1e-4, 1e-3, 3e-3),
    torch.bfloat16: (1e-4, 5e-3, 1e-2),
}
"""Of the loss, of statistics, of gradients."""


def found(backend, matrices, options):
    """The results, or a skip where the CUDA library does not have this operator."""
    with taken_by(backend):
        return results(matrices, options, backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(2 * len(SIZES)))
def test_odd_sizes(backend, dtype, seed):
    """Fewer rows than a block, prototypes that fill none, width 1; in the same bits in every run."""
    matrices, options, truth = rounded(*moved(drawn(seed)), dtype)
    first = found(backend, matrices, options)
    assert_close(first, truth, ALLOWED[dtype], (seed, dtype))
    assert same_bits(first, results(matrices, options, backend))


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REGIMES)
def test_the_states_of_a_run(backend, name, dtype, precision):
    """As exact as demanded, or as torch is in the same precision where small differences of large numbers count."""
    (*matrices, pairs), options = regime(name, rows=20, teachers=12, prototypes=2048, width=256)
    scale = 2**16 if name == "collapse" else 2**6
    pairs = pairs._replace(weight=scale * pairs.weight)
    matrices, options, truth = rounded(*moved(((*matrices, pairs), options)), dtype)
    torch.set_float32_matmul_precision(precision)
    try:
        ours = found(backend, matrices, options)
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = (dtype, precision) == (torch.float32, "highest")
    plain = results(matrices, options, "reference") if exact else autocast(matrices, options)
    for i, demanded in zip((0, 2, 3), ALLOWED[dtype] if not exact else (1e-6, 5e-6, 5e-6), strict=True):
        error, torchs = ((x[i] - truth[i]).norm() / truth[i].norm() for x in (ours, plain))
        if i == 0:  # a loss near 0 is judged by its absolute error
            error = error * (truth[0] / scale).clamp(max=1)
        limit = demanded if exact or dtype != torch.float32 else (2e-5, 1e-3, 3e-3)[(0, 2, 3).index(i)]
        assert error <= max(limit, 1.5 * torchs), (name, i, error, torchs)


def test_more_scores_than_31_bits_count(backend):
    """A row's gradient does not depend on others, of which there are 33,000, with 65,536 prototypes."""
    needs_memory(8)
    g = torch.Generator(DEVICE).manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, device=DEVICE)

    rows, teachers, prototypes, width = 33_000, 500, 65_536, 64
    assert rows * prototypes > 2**31
    student, teacher = (torch.nn.functional.normalize(normal(n, width), dim=-1) for n in (rows, teachers))
    weight, center = normal(prototypes, width), 0.01 * normal(prototypes)
    last = torch.arange(rows - 64, rows, device=DEVICE)

    def gradient(x, of):
        pairs = ops.Pairs(of, torch.arange(64, device=DEVICE), torch.full((64,), 1 / 64, device=DEVICE))
        x = x.half().requires_grad_()
        loss, _ = ops.prototype_cross_entropy(
            x, weight, teacher.half(), weight, center, pairs, **TEMPERATURES, backend=backend
        )
        return torch.autograd.grad(loss, x)[0][of]

    alone = gradient(student[-64:].clone(), last - rows + 64)
    assert torch.equal(gradient(student, last), alone)

"""The loss over prototypes on a GPU, on all backends with kernels for one, against the float64 oracle."""

from __future__ import annotations

import pytest
import torch

from esvit_fast import ops
from tests import seeds

from .gpu import DEVICE, DTYPES, moved, needs_memory, on_kernels_of, same_bits
from .problems import REGIMES, TEMPERATURES, assert_exact_in, drawn_from, results
from .test_prototype_cross_entropy_triton import SIZES, assert_close, autocast, drawn, of_a_run, rounded

pytestmark = on_kernels_of("prototype_cross_entropy")
ALLOWED = {
    torch.float32: (1e-6, 2e-6, 5e-6),
    torch.float16: (1e-4, 1e-3, 3e-3),
    torch.bfloat16: (1e-4, 5e-3, 1e-2),
}
"""Of the loss, of statistics, of gradients."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(2 * len(SIZES)))
def test_odd_sizes(backend, dtype, seed):
    """Fewer rows than a block, prototypes that fill none, width 1; in the same bits in every run."""
    matrices, options, truth = rounded(*moved(drawn(seed)), dtype)
    first = results(matrices, options, backend)
    assert_close(first, truth, ALLOWED[dtype], (seed, dtype))
    assert same_bits(first, results(matrices, options, backend))


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", REGIMES)
def test_the_states_of_a_run(backend, name, dtype, precision):
    """As exact as is demanded of what is computed in, which is 16 bits unless float32 must be exact."""
    matrices, options, _ = moved(of_a_run(name, dtype))
    torch.set_float32_matmul_precision(precision)
    try:
        ours = results(matrices, options, backend)
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = (dtype, precision) == (torch.float32, "highest")
    computed = torch.float16 if dtype == torch.float32 and not exact else dtype
    drawn = drawn_from((matrices, options), None if exact else autocast)
    assert_exact_in(name, ours, drawn, computed, matrices[-1])


def test_more_scores_than_31_bits_count(backend):
    """A row's gradient does not depend on others, of which there are 33,000, with 65,536 prototypes."""
    needs_memory(8)
    g = seeds.generator(0, DEVICE)

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

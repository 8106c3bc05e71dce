"""The cross-entropy of given logits on a GPU, on all backends with kernels for one, against the float64 oracle."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measuring.exactness import doubles, draws, judge
from esvit_fast import ops
from tests import seeds

from .gpu import DTYPES, moved, on_kernels_of, same_bits, taken_by

pytestmark = on_kernels_of("soft_cross_entropy")
SIZES = [(5, 3, 7, 9), (70, 20, 1300, 90), (3, 2, 65536, 6), (33, 40, 65537, 100), (1, 1, 1, 1)]


def results(logits, center, pairs, backend, dtype):
    """Loss and gradient."""
    student, teacher = (x.to(dtype) for x in logits)
    student = student.detach().requires_grad_()
    temperatures = {"student_temp": 0.1, "teacher_temp": 0.04}
    loss, _ = ops.soft_cross_entropy(student, teacher, center, pairs, **temperatures, backend=backend)
    return [loss.detach(), *torch.autograd.grad(loss, student)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_as_exact_as_torch(backend, dtype, size):
    """Twice plain torch's error and one rounding, in the same bits in every run."""
    rows, teachers, prototypes, count = size
    g = seeds.generator(0)
    logits = [torch.randn(n, prototypes, generator=g).to(dtype) for n in (rows, teachers)]
    which = [torch.randint(n, (count,), generator=g) for n in (rows, teachers)]
    pairs = ops.Pairs(*which, torch.rand(count, generator=g) / count)
    logits, center, pairs = moved((logits, 0.1 * torch.randn(prototypes, generator=g), pairs))
    with taken_by(backend):
        ours = results(logits, center, pairs, backend, dtype)

    def evaluate(drawn):
        return results(*drawn, "reference", dtype), results(*doubles(drawn), "reference", torch.float64)

    judged = judge(ours, draws(evaluate, (logits, center, pairs)))
    assert judged.ratio <= 1, (size, judged)
    assert same_bits(ours, results(logits, center, pairs, backend, dtype))

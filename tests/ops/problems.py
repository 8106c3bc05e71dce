"""Small problems for the two cross-entropies, and the five states of a run in which their numerics differ."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.measuring.exactness import doubles, draws
from esvit_fast import ops
from esvit_fast.ops import Pairs
from esvit_fast.ops._core import native
from tests import seeds

NATIVE = pytest.mark.skipif(native.CPU_MISSING is not None, reason=str(native.CPU_MISSING))
BACKENDS = ["reference", pytest.param("cpu", marks=NATIVE)]
TEMPERATURES = {"student_temp": 0.5, "teacher_temp": 0.2}


def problem(dtype=torch.float64, rows=6, teachers=4, prototypes=7, width=3, pairs=9, seed=0):
    """Matrices, a centre and pairs."""
    g = seeds.generator(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    matrices = normal(rows, width), normal(prototypes, width), normal(teachers, width), normal(prototypes, width)
    chosen = Pairs(
        torch.randint(rows, (pairs,), generator=g),
        torch.randint(teachers, (pairs,), generator=g),
        torch.rand(pairs, generator=g, dtype=dtype),
    )
    return *matrices, normal(prototypes), chosen


def lengths(prototypes=7, dtype=torch.float64, seed=0):
    """weight_g of student and teacher, of both shapes that are allowed."""
    g = seeds.generator(100 + seed)
    student, teacher = (0.5 + torch.rand(prototypes, generator=g, dtype=dtype) for _ in range(2))
    return {"student_weight_g": student.view(-1, 1), "teacher_weight_g": teacher}


REGIMES = ("init", "cos .5", "cos .9", "converging", "collapse")


def regime(name, rows=48, teachers=32, prototypes=4096, width=64, seed=0):
    """float64 matrices, lengths, centre, pairs and temperatures as at the start of a run, on its way, at its end, and
    after a collapse to one uniform answer."""
    g = seeds.generator(seed)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, generator=g, dtype=torch.float64), dim=-1)

    weight, length = unit(prototypes, width), torch.ones(prototypes, 1, dtype=torch.float64)
    common = {"init": 0.0, "cos .5": 0.5, "cos .9": 0.9, "converging": 0.0, "collapse": 0.0}[name]
    shared = unit(1, width)
    student, teacher = (
        F.normalize(common**0.5 * shared + (1 - common) ** 0.5 * unit(n, width), dim=-1) for n in (rows, teachers)
    )
    pairs = Pairs(
        torch.arange(2 * rows) % rows,
        torch.randint(teachers, (2 * rows,), generator=g),
        torch.full((2 * rows,), 0.5 / rows, dtype=torch.float64),
    )
    if name == "converging":
        # every row is close to one prototype, the same as its teacher's
        length = 1.6 * length
        teacher = F.normalize(weight[:teachers] + 1.2 * unit(teachers, width), dim=-1)
        own = torch.arange(rows) % teachers
        student = F.normalize(weight[own] + 1.2 * unit(rows, width), dim=-1)
        pairs = pairs._replace(teacher_row=own[pairs.student_row])
    if name == "collapse":
        length = 1e-3 * length
    center = (
        0.01 * torch.randn(prototypes, generator=g, dtype=torch.float64) if name != "collapse" else 0 * length[:, 0]
    )
    teacher_weight = weight + 0.02 * unit(prototypes, width)
    return (student, 0.03 * weight, teacher, 0.03 * teacher_weight, center, pairs), {
        "student_weight_g": length,
        "teacher_weight_g": length,
        "student_temp": 0.1,
        "teacher_temp": 0.04,
    }


DEMANDED = {
    torch.float32: (1e-6, 5e-6, 5e-6),
    torch.float16: (2e-5, 1e-3, 3e-3),
    torch.bfloat16: (1e-4, 5e-3, 1e-2),
}
"""Relative errors of the loss, and of the gradients of student and student_weight, by what is computed in."""


def assert_exact_in(name, found, drawn, computed, pairs):
    """`results` in a regime are as exact as demanded; where small differences of large numbers count, as exact as
    torch's in any of the `benchmarks.measuring.exactness.draws`, if those are less. A loss near 0 is judged by its
    absolute error, of weights that sum to one."""

    def errors(x, truth):
        small = (truth[0] / pairs.weight.sum()).abs().clamp(max=1)
        return [float((x[i] - truth[i]).norm() / truth[i].norm() * (1 if i else small)) for i in (0, 2, 3)]

    ours, torchs = None, [0.0] * 3
    for plain, truth in drawn:
        ours = ours or errors(found, truth)
        torchs = list(map(max, torchs, errors(plain, truth)))
        luck = 1.5 if name in ("converging", "collapse") else 0.0
        if all(e <= max(a, luck * t) for e, a, t in zip(ours, DEMANDED[computed], torchs, strict=True)):
            return
        if not luck:
            break
    raise AssertionError((name, computed, ours, torchs))


def rounded(matrices, options, dtype):
    """The same problem in a dtype; what pairs weigh stays."""
    *tensors, pairs = matrices
    options = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return (*(x.to(dtype) for x in tensors), pairs), options


def exactly(matrices, options):
    """Results of the oracle in float64."""
    *tensors, pairs = matrices
    return results((*doubles(tensors), pairs), doubles(options), "reference")


def drawn_from(given, plainly=None):
    """Draws of matrices and options: results of plain torch in their dtype, or by `plainly`, and the exact ones."""
    plainly = plainly or (lambda matrices, options: results(matrices, options, "reference"))
    return draws(lambda drawn: (plainly(*drawn), exactly(*drawn)), given)


def results(matrices, options, backend, dtype=None):
    """Loss, statistics and gradients of student, student_weight and student_weight_g, where there is one."""
    *tensors, pairs = matrices
    student, weight, *rest = (x.detach().to(dtype or x.dtype).clone() for x in tensors)
    options = {k: v.to(dtype or v.dtype) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    trained = [student.requires_grad_(), weight.requires_grad_()]
    if "student_weight_g" in options:
        options["student_weight_g"] = options["student_weight_g"].detach().requires_grad_()
        trained.append(options["student_weight_g"])
    loss, statistics = ops.prototype_cross_entropy(student, weight, *rest, pairs, **options, backend=backend)
    return [loss.detach(), torch.stack(statistics), *torch.autograd.grad(loss, trained)]

"""Cross-entropy of given logits in Triton, run by its interpreter."""

import math

import pytest
import torch

from esvit_fast import ops
from esvit_fast.ops import Facts, Pairs
from esvit_fast.ops._core import native
from esvit_fast.ops._core import triton as _device
from tests import seeds

from .harness import assert_walls, run_in_the_interpreter, walled, walled_allocations

pytestmark = pytest.mark.skipif(_device.MISSING is not None, reason=str(_device.MISSING))
TEMPERATURES = {"student_temp": 0.1, "teacher_temp": 0.04}


def problem(rows, teachers, prototypes, pairs, seed, offset=0.0):
    g = seeds.generator(seed)
    student, teacher = (offset + torch.randn(n, prototypes, generator=g) for n in (rows, teachers))
    index = (torch.randint(n, (pairs,), generator=g) for n in (rows, teachers))
    return student, teacher, 0.1 * torch.randn(prototypes, generator=g), Pairs(*index, torch.rand(pairs, generator=g))


def results(student, teacher, center, pairs, backend, in_place=False):
    student = student.detach().requires_grad_()
    given = student * 1 if in_place else student
    loss, statistics = ops.soft_cross_entropy(
        given, teacher, center, pairs, **TEMPERATURES, gradient_in_place=in_place, backend=backend
    )
    return loss.detach(), torch.stack(statistics), torch.autograd.grad(loss, student)[0]


def check():
    """Errors against float64 at most twice torch's, in sizes around those of blocks, near zero and far from it."""
    for seed, (rows, teachers, prototypes, pairs) in enumerate(
        [(1, 1, 1, 1), (3, 2, 127, 5), (5, 4, 4096, 9), (2, 3, 4097, 3), (4, 2, 5000, 6), (2, 2, 9001, 3)]
    ):
        for dtype in (torch.float32, torch.float16):
            for offset in (0.0, 100.0):
                student, teacher, center, chosen = problem(rows, teachers, prototypes, pairs, seed, offset)
                narrow = student.to(dtype), teacher.to(dtype), center
                exact = results(*(x.double() for x in narrow), chosen, "reference")
                plain, ours = (results(*narrow, chosen, backend) for backend in ("reference", "triton"))
                assert all(map(torch.equal, ours, results(*narrow, chosen, "triton", in_place=True)))
                for name, a, b, c in zip(("loss", "statistics", "gradient"), ours, plain, exact, strict=True):
                    error, theirs = ((x.double() - c).norm() / (1e-30 + c.norm()) for x in (a, b))
                    assert a.dtype == b.dtype
                    assert error <= max(2 * theirs, 1e-6), (seed, dtype, offset, name, error, theirs)


def check_edges():
    """What is no number, or infinite, does what it does in torch."""
    student, teacher, center, pairs = problem(4, 3, 300, 8, 0)
    for spoil in (math.nan, math.inf):
        for side in (0, 1):
            given = [student.clone(), teacher.clone()]
            row = int(pairs[side][0])
            given[side][row, 7] = spoil
            ours, plain = (results(*given, center, pairs, backend) for backend in ("triton", "reference"))
            assert ours[0].isnan()
            assert plain[0].isnan()
            assert torch.equal(ours[2].isnan(), plain[2].isnan())
    for prototypes in (300, 5000, 8192):
        student, teacher, center, pairs = problem(3, 2, prototypes, 4, 1)
        teacher[int(pairs[1][0])] = math.nan  # none of its logits is the highest
        assert results(student, teacher, center, pairs, "triton")[0].isnan()
    student, teacher, center, pairs = problem(4, 3, 300, 8, 0)
    center[5] = math.inf  # this prototype is never meant
    ours, plain = (results(student, teacher, center, pairs, backend) for backend in ("triton", "reference"))
    torch.testing.assert_close(ours[0], plain[0])
    no_pair = pairs._replace(student_row=torch.zeros(8, dtype=torch.int64))
    assert not results(student, teacher, center.clamp_max(1), no_pair, "triton")[2][1:].any()


def check_walls():
    """Nothing beside the inputs is read, and all that is made, and nothing else, is written."""
    student, teacher, center, pairs = problem(5, 3, 5000, 9, 1)
    plain = results(student, teacher, center, pairs, "triton")
    with walled_allocations() as walls:
        chosen = Pairs(walled(pairs[0]), walled(pairs[1]), walled(pairs[2]))
        inside = results(walled(student), walled(teacher), walled(center), chosen, "triton")
    assert len(walls) > 4
    assert_walls(walls, "soft_cross_entropy")
    assert all(map(torch.equal, inside, plain))


@pytest.mark.parametrize("call", ["check()", "check_edges(); check_walls()"])
def test_in_the_interpreter(call):
    run_in_the_interpreter("tests.ops.test_soft_cross_entropy_triton", call)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
def test_a_gpu_runs_triton(capability, monkeypatch):
    monkeypatch.setattr(native, "CUDA_MISSING", "the library _C_cuda was not built")
    facts = Facts("cuda", torch.bfloat16, {"student_logits": (176, 65536)}, {"pairs": 352}, capability, unproven=True)
    assert ops.plan("soft_cross_entropy", facts).backend == "triton"
    facts = Facts("cuda", torch.float64, {"student_logits": (176, 65536)}, {"pairs": 352}, capability, unproven=True)
    assert ops.plan("soft_cross_entropy", facts).backend == "reference"

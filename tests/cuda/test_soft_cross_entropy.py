"""The CUDA kernels of the cross-entropy of given logits, run by the executor."""

import math
from types import SimpleNamespace

import pytest
import torch

from benchmarks.measuring.exactness import doubles, draws, judge
from esvit_fast import ops, reference
from esvit_fast.ops import Pairs
from esvit_fast.ops._core import cuda_tables as _tables
from esvit_fast.ops.soft_cross_entropy import cuda
from tests import seeds

from . import executor

THREADS = 64
TEMPERATURES = {"student_temp": 0.1, "teacher_temp": 0.04}
DTYPES = (torch.float16, torch.bfloat16)


@pytest.fixture(scope="module")
def kernels():
    return executor.library(executor.HOST / "soft_cross_entropy.cpp")


def run(kernels, name, grid, buffers, scalars, dtype, shared=True):
    bytes_of_row = _tables.row_bytes(scalars["count"], THREADS)
    kernel = f"{name}.{str(dtype).removeprefix('torch.')}"
    found = executor.run(kernels, kernel, grid, THREADS, bytes_of_row if shared else 0, buffers, scalars)
    assert not found, "\n".join(map(str, found))


def operator(kernels):
    """The private operator."""

    def soft_cross_entropy(student, teacher, center, start, teacher_row, weight, student_temp, teacher_temp, gradient):
        (count, prototypes), teachers = student.shape, len(teacher)
        loss, found, usage = (torch.empty(shape) for shape in (count, (3, teachers), prototypes))
        best = torch.empty(teachers, dtype=torch.int64)
        scalars = {"rows": teachers, "count": prototypes, "scale": 1 / teacher_temp}
        given = {"logits": ("in", teacher), "center": ("in", center)}
        described = {"found": ("out", found), "best": ("out", best), "usage": None}
        run(kernels, "rows", teachers, given | described, scalars, student.dtype)
        used = {"found": ("in", found), "best": None, "usage": ("out", usage)}
        run(kernels, "usage", -(-prototypes // (2 * THREADS)), given | used, scalars, student.dtype, shared=False)
        in_place = gradient is not None and gradient.data_ptr() == student.data_ptr()
        buffers = {
            "logits": ("inout" if in_place else "in", student),
            "teacher": ("in", teacher),
            "center": ("in", center),
            "found": ("in", found),
            "start": ("in", start),
            "teacher_row": ("in", teacher_row),
            "weight": ("in", weight),
            "loss": ("out", loss),
            "gradient": None if gradient is None or in_place else ("out", gradient),
        }
        scalars = {
            "teacher_rows": teachers,
            "count": prototypes,
            "scale": 1 / student_temp,
            "teacher_scale": 1 / teacher_temp,
            "in_place": in_place,
        }
        run(kernels, "loss", count, buffers, scalars, student.dtype)
        return loss, found, best, usage

    return soft_cross_entropy


@pytest.fixture(autouse=True)
def on_the_host(monkeypatch, kernels):
    monkeypatch.setattr(cuda, "_kernels", lambda: SimpleNamespace(soft_cross_entropy=operator(kernels)))


def problem(rows, teachers, prototypes, pairs, seed, dtype, offset=0.0):
    g = seeds.generator(seed)
    student, teacher = ((offset + torch.randn(n, prototypes, generator=g)).to(dtype) for n in (rows, teachers))
    index = (torch.randint(n, (pairs,), generator=g) for n in (rows, teachers))
    center = 0.1 * torch.randn(prototypes, generator=g)
    if offset:  # far from zero its subtraction rounds, here as in torch, and chance says who is nearer
        center.zero_()
    return student, teacher, center, Pairs(*index, torch.rand(pairs, generator=g))


def results(student, teacher, center, pairs, gradient=True):
    to = torch.empty_like(student) if gradient is True else gradient
    loss, statistics = cuda.forward(student, teacher, center, *pairs, *TEMPERATURES.values(), to)
    return loss, statistics, to


def plainly(student, teacher, center, pairs):
    student = student.detach().requires_grad_()
    loss, statistics = reference.soft_cross_entropy(student, teacher, center, *pairs, **TEMPERATURES)
    return loss.detach(), statistics, torch.autograd.grad(loss, student)[0]


def drawn(seed):
    """Rows, teachers, prototypes and pairs."""
    r = seeds.choices(seed)
    prototypes = 8 * r.choice([1, r.randint(1, 16), r.randint(1, 100), 64, 65, 512])
    return r.randint(1, 6), r.randint(1, 5), prototypes, r.randint(1, 12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_errors_are_at_most_twice_torchs(dtype, offset):
    for seed, size in enumerate(map(drawn, range(20))):
        given = problem(*size, seed, dtype, offset)
        plain, ours = plainly(*given), results(*given)
        assert [x.dtype for x in ours] == [x.dtype for x in plain]
        judged = judge(ours, draws(lambda drawn: (plainly(*drawn), plainly(*doubles(drawn))), given))
        assert judged.ratio <= 1, (size, judged)


def test_a_gradient_in_place_and_none():
    given = problem(4, 3, 256, 7, 0, torch.float16)
    loss, statistics, gradient = results(*given)
    place = given[0].clone()
    again = results(place, *given[1:], gradient=place)
    assert all(map(torch.equal, (loss, statistics, gradient), again))
    assert torch.equal(results(*given, gradient=None)[0], loss)


def test_what_is_no_number_or_infinite_does_what_it_does_in_torch():
    student, teacher, center, pairs = problem(4, 3, 136, 8, 0, torch.bfloat16)
    for spoil in (math.nan, math.inf):
        for side in (0, 1):
            given = [student.clone(), teacher.clone()]
            given[side][int(pairs[side][0]), 7] = spoil
            ours, plain = results(*given, center, pairs), plainly(*given, center, pairs)
            assert ours[0].isnan()
            assert plain[0].isnan()
            assert torch.equal(ours[2].isnan(), plain[2].isnan())
    center[5] = math.inf  # this prototype is never meant
    ours, plain = results(student, teacher, center, pairs), plainly(student, teacher, center, pairs)
    torch.testing.assert_close(ours[0], plain[0])
    alone = pairs._replace(student_row=torch.zeros(8, dtype=torch.int64))
    assert not results(student, teacher, center.clamp_max(1), alone)[2][1:].any()


def test_a_block_as_large_as_on_a_gpu(monkeypatch):
    """Most threads have no part of a row of 4,096 logits."""
    given = problem(2, 2, 4096, 3, 0, torch.float16)
    loss, statistics, gradient = results(*given)
    monkeypatch.setitem(globals(), "THREADS", 1024)
    found = results(*given)
    torch.testing.assert_close(found[0], loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], statistics, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2], gradient, rtol=2e-3, atol=1e-6)


def test_ties_go_to_the_first():
    teacher = torch.zeros(2, 64, dtype=torch.float16)
    teacher[0, [13, 40]] = 5
    pairs = Pairs(torch.tensor([0]), torch.tensor([1]), torch.ones(1))
    found = results(torch.zeros(1, 64, dtype=torch.float16), teacher, torch.zeros(64), pairs)
    assert ops.Statistics(*found[1]).prototypes_used == 2
    assert found[0].item() == pytest.approx(math.log(64), rel=1e-6)


def test_a_view_that_begins_anywhere_has_its_gradient_in_place():
    student, *rest = problem(3, 3, 64, 5, 1, torch.float16)
    loss, statistics, gradient = results(student, *rest)
    memory = torch.zeros(student.numel() + 8, dtype=torch.float16)
    view = memory[1 : 1 + student.numel()].view(student.shape).copy_(student)
    found = results(view, *rest, gradient=view)
    assert all(map(torch.equal, (loss, statistics, gradient), found))
    assert not memory[0] and not memory[1 + student.numel() :].any()

"""Cross-entropy of pairs of logits."""

import math

import pytest
import torch
from torch.library import opcheck

from benchmarks.measuring.exactness import doubles, draws, judge
from esvit_fast import ops
from tests import seeds

from .harness import with_threads
from .problems import BACKENDS, NATIVE, TEMPERATURES, problem

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def logits(dtype=torch.float64, **sizes):
    student, weight, teacher, teacher_weight, center, pairs = problem(dtype, **sizes)
    return student @ weight.T, teacher @ teacher_weight.T, center, pairs


@each_backend
def test_is_the_sum_over_pairs(backend):
    student, teacher, center, pairs = logits()
    loss, _ = ops.soft_cross_entropy(student, teacher, center, pairs, **TEMPERATURES, backend=backend)
    expected = 0.0
    for r, m, w in zip(*(x.tolist() for x in pairs), strict=True):
        t = [math.exp((x - c) / 0.2) for x, c in zip(teacher[m].tolist(), center.tolist(), strict=True)]
        s = [math.exp(x / 0.5) for x in student[r].tolist()]
        expected -= w * sum(a / sum(t) * math.log(b / sum(s)) for a, b in zip(t, s, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@each_backend
def test_gradcheck(backend):
    student, teacher, center, pairs = logits()
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: ops.soft_cross_entropy(x, teacher, center, pairs, **TEMPERATURES, backend=backend)[0], student
    )


@each_backend
def test_the_teacher_gets_no_gradient(backend):
    student, teacher, center, pairs = logits()
    student.requires_grad_(), teacher.requires_grad_()
    ops.soft_cross_entropy(student, teacher, center, pairs, **TEMPERATURES, backend=backend)[0].backward()
    assert student.grad.abs().max() > 1e-3
    assert teacher.grad is None


@each_backend
def test_statistics(backend):
    teacher = torch.tensor([[100.0, 0.0, 0.0], [100.0, 0.0, 0.0], [0.0, 100.0, 0.0], [0.0, 0.0, 0.0]])
    student = torch.zeros(1, 3)
    pairs = ops.Pairs(torch.zeros(4, dtype=torch.int64), torch.arange(4), torch.full((4,), 0.25))
    loss, statistics = ops.soft_cross_entropy(
        student, teacher, torch.zeros(3), pairs, student_temp=1.0, teacher_temp=1.0, backend=backend
    )
    third = 1 / 3
    mean = [(2 + third) / 4, (1 + third) / 4, third / 4]
    assert loss.item() == pytest.approx(math.log(3))
    assert statistics.teacher_entropy.item() == pytest.approx(math.log(3) / 4, abs=1e-6)
    assert statistics.marginal_entropy.item() == pytest.approx(-sum(p * math.log(p) for p in mean), abs=1e-6)
    assert statistics.kl.item() == pytest.approx(0.75 * math.log(3), abs=1e-6)
    assert statistics.largest_probability.item() == pytest.approx((3 + third) / 4, abs=1e-6)
    assert statistics.prototypes_used.item() == 2


@each_backend
def test_half_precision_logits_give_a_float32_loss(backend):
    student, teacher, center, pairs = logits(torch.float32)
    exact = ops.soft_cross_entropy(student, teacher, center, pairs, **TEMPERATURES, backend=backend)[0]
    half = ops.soft_cross_entropy(student.half(), teacher.half(), center, pairs, **TEMPERATURES, backend=backend)[0]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=5e-3, atol=0)


@each_backend
def test_opcheck(backend):
    student, teacher, center, pairs = logits(torch.float32)
    for needed in (True, False):
        given = student.detach().requires_grad_(needed), teacher, center, *pairs, 0.5, 0.2, needed, backend
        opcheck(torch.ops.esvit_fast.soft_cross_entropy.default, given)
    given = student.detach().clone(), teacher, center, *pairs, 0.5, 0.2, backend
    opcheck(torch.ops.esvit_fast.soft_cross_entropy_in_place.default, given)
    given = torch.tensor(0.5), student.detach(), backend
    opcheck(torch.ops.esvit_fast.soft_cross_entropy_backward.default, given)


@NATIVE
@pytest.mark.parametrize("part", range(4))
def test_cpu_equals_the_oracle_at_any_size(part):
    for seed in range(12 * part, 12 * part + 12):
        r = seeds.choices(seed)
        sizes = {
            "rows": r.choice([1, 5, r.randint(1, 60)]),
            "teachers": r.choice([1, r.randint(1, 40)]),
            "prototypes": r.choice([1, 2, 15, 1023, 1024, 1025, r.randint(1, 3000)]),
            "pairs": r.randint(1, 200),
        }
        for dtype, tolerance in {
            torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3
        }.items():  # fmt: skip
            student, teacher, center, pairs = logits(**sizes, seed=seed)
            narrow = [x.to(dtype) for x in (student, teacher, center)]
            (truth, exact), (found, ours) = (
                _with_gradient(*given, pairs, backend)
                for given, backend in (([x.double() for x in narrow], "reference"), (narrow, "cpu"))
            )
            total = pairs.weight.sum()
            assert ours[1].dtype == dtype and ours[0].dtype == torch.promote_types(dtype, torch.float32)
            for i, (a, b) in enumerate(zip(ours, exact, strict=True)):
                allowed = tolerance if i == 1 else min(tolerance, 2e-6)
                assert (a - b).norm() <= allowed * (b.norm() + total), (seed, dtype, i)
            torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)


def _with_gradient(student, teacher, center, pairs, backend):
    student = student.detach().requires_grad_()
    loss, statistics = ops.soft_cross_entropy(student, teacher, center, pairs, **TEMPERATURES, backend=backend)
    return torch.stack(statistics), (loss.detach(), torch.autograd.grad(loss, student)[0])


@each_backend
def test_backward_may_run_twice_and_by_any_factor(backend):
    student, *rest = logits()
    student.requires_grad_()
    loss, _ = ops.soft_cross_entropy(student, *rest, **TEMPERATURES, backend=backend)
    (first,) = torch.autograd.grad(loss, student, retain_graph=True)
    loss.backward(retain_graph=True)
    (3 * loss).backward(retain_graph=True)
    torch.testing.assert_close(student.grad, 4 * first)
    with pytest.raises(NotImplementedError, match="soft_cross_entropy is differentiable once"):
        torch.autograd.grad(loss, student, create_graph=True)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_weights_and_a_scaled_loss_do_not_underflow(backend, dtype):
    student, teacher, center, pairs = logits(torch.float32)
    small = pairs._replace(weight=1e-7 * pairs.weight)
    grads = []
    for given in (dtype, torch.float64):
        x = student.to(dtype).to(given).requires_grad_()
        teach = teacher.to(dtype).to(given)
        loss, statistics = ops.soft_cross_entropy(x, teach, center, small, **TEMPERATURES, backend=backend)
        grads.append((*torch.autograd.grad(2**14 * loss, x), loss, statistics.kl))
    for ours, exact in zip(*grads, strict=True):
        assert (ours - exact).norm() <= 0.6 * torch.finfo(dtype).eps * exact.norm()


@NATIVE
def test_nothing_but_the_gradient_is_kept():
    student, *rest = logits(rows=60)
    student.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        ops.soft_cross_entropy(student, *rest, **TEMPERATURES, backend="cpu")
    assert kept == [student.numel()]


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_gradient_in_place_is_the_same_and_takes_no_memory(backend, dtype):
    student, *rest = logits(torch.float32)
    teacher, center, pairs = rest[0].to(dtype), *rest[1:]
    found = []
    for in_place in (False, True):
        x = student.to(dtype).requires_grad_()
        made = x * 2
        place = made.data_ptr()
        loss, statistics = ops.soft_cross_entropy(
            made, teacher, center, pairs, **TEMPERATURES, gradient_in_place=in_place, backend=backend
        )
        given = []
        made.register_hook(given.append)
        (3 * loss).backward()
        assert (given[0].data_ptr() == place) == in_place
        found.append((loss.detach(), torch.stack(statistics), x.grad))
    assert all(map(torch.equal, *found))


def test_a_gradient_in_place_is_refused_where_it_would_be_wrong():
    student, *rest = logits()
    student.requires_grad_()
    options = {**TEMPERATURES, "gradient_in_place": True}
    with pytest.raises(ValueError, match="gradient_in_place=True needs .*; they are a leaf"):
        ops.soft_cross_entropy(student, *rest, **options)
    with pytest.raises(ValueError, match=r"gradient_in_place=True needs .*; they are of strides \(1, 6\)"):
        ops.soft_cross_entropy((student * 1).T.contiguous().T, *rest, **options)
    needs_its_output = student.exp()
    loss, _ = ops.soft_cross_entropy(needs_its_output, *rest, **options)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with pytest.raises(ValueError, match="they are a leaf, or a view of one"):
        ops.soft_cross_entropy(student.view(-1).view(6, 7), *rest, **options)
    made = student * 1
    with pytest.raises(ValueError, match="they are in the memory of teacher_logits"):
        ops.soft_cross_entropy(made, made.detach(), rest[1], ops.Pairs(*(x[:1] * 0 for x in rest[2])), **options)
    first, _ = (ops.soft_cross_entropy(made, *rest, **options)[0] for _ in range(2))
    with pytest.raises(RuntimeError, match="was overwritten; gradient_in_place=True is for one loss of logits"):
        first.backward()
    loss, _ = ops.soft_cross_entropy(student * 1, *rest, **options)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="scaled already; for several backward passes leave it out"):
        loss.backward()
    # nothing is overwritten that needs no gradient
    kept = student.detach() + 0
    ops.soft_cross_entropy(kept, *rest, **options)
    assert torch.equal(kept, student)


@NATIVE
@pytest.mark.parametrize("offset", [0, 30, 100])
def test_scores_far_from_zero_lose_no_more_than_in_torch(offset):
    g = seeds.generator(0)
    student, teacher = (offset + torch.randn(n, 4096, generator=g, dtype=torch.float64) for n in (40, 30))
    pairs = ops.Pairs(torch.arange(40), torch.arange(40) % 30, torch.full((40,), 1 / 40))
    temps = {"student_temp": 0.1, "teacher_temp": 0.04}

    def run(given, backend="reference"):
        x, teacher = given
        x.requires_grad_()
        center = torch.zeros(4096, dtype=x.dtype)
        loss, _ = ops.soft_cross_entropy(x, teacher, center, pairs, **temps, backend=backend)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    given = student.float(), teacher.float()
    judged = judge(run(given, "cpu"), draws(lambda drawn: (run(drawn), run(doubles(drawn))), given))
    assert judged.ratio <= 1, judged


@NATIVE
def test_the_same_bits_for_any_number_of_threads():
    given = logits(torch.float32, rows=70, teachers=30, prototypes=5000, pairs=200)
    (statistics, first), *others = with_threads(lambda: _with_gradient(*given, "cpu"), 1, 2, 5)
    for other, found in others:
        assert torch.equal(statistics, other) and all(map(torch.equal, first, found))


GOOD = (
    dict(zip(("student_logits", "teacher_logits", "center", "pairs"), logits(torch.float32), strict=True))
    | TEMPERATURES
)
PAIRS = GOOD["pairs"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"student_temp": 0.0}, ValueError, r"student_temp=0\.0 must be greater than 0"),
        ({"teacher_temp": math.nan}, ValueError, "teacher_temp=nan must be greater than 0"),
        ({"center": torch.zeros(3)}, ValueError, r"center \(3,\) must have K=7"),
        ({"teacher_logits": torch.zeros(4, 6)}, ValueError, r"teacher_logits \(4, 6\).*must have K=7"),
        ({"student_logits": torch.zeros(6, 0)}, ValueError, "student_logits.*must be a non-empty matrix"),
        ({"pairs": ops.Pairs(*(x[:0] for x in PAIRS))}, ValueError, "pairs are empty"),
        ({"pairs": PAIRS._replace(weight=PAIRS.weight[:2])}, ValueError, "three vectors of one length"),
        (
            {"pairs": PAIRS._replace(teacher_row=PAIRS.weight)},
            TypeError,
            r"pairs\.teacher_row has dtype torch\.float32",
        ),
        ({"pairs": PAIRS._replace(weight=PAIRS.weight.to("meta"))}, TypeError, r"pairs\.weight is on meta"),
        (
            {"pairs": PAIRS._replace(teacher_row=PAIRS.teacher_row + 4)},
            ValueError,
            r"pairs\.teacher_row has rows from \d to \d; the teacher has rows from 0 to 3",
        ),
        (
            {"pairs": PAIRS._replace(student_row=PAIRS.student_row - 6)},
            ValueError,
            r"pairs\.student_row has rows from -\d to -\d; the student has rows from 0 to 5",
        ),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        ops.soft_cross_entropy(**(GOOD | change))

"""Cross-entropy of pairs of logits."""

import math

import pytest
import torch
from torch.library import opcheck

from esvit_fast import ops

from .problems import TEMPERATURES, problem


def logits(dtype=torch.float64, **sizes):
    student, weight, teacher, teacher_weight, center, pairs = problem(dtype, **sizes)
    return student @ weight.T, teacher @ teacher_weight.T, center, pairs


def test_is_the_sum_over_pairs():
    student, teacher, center, pairs = logits()
    loss, _ = ops.soft_cross_entropy(student, teacher, center, pairs, **TEMPERATURES)
    expected = 0.0
    for r, m, w in zip(*(x.tolist() for x in pairs), strict=True):
        t = [math.exp((x - c) / 0.2) for x, c in zip(teacher[m].tolist(), center.tolist(), strict=True)]
        s = [math.exp(x / 0.5) for x in student[r].tolist()]
        expected -= w * sum(a / sum(t) * math.log(b / sum(s)) for a, b in zip(t, s, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_gradcheck():
    student, teacher, center, pairs = logits()
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: ops.soft_cross_entropy(x, teacher, center, pairs, **TEMPERATURES)[0], student
    )


def test_gradient_of_a_row_sums_to_zero_and_the_teacher_gets_none():
    student, teacher, center, pairs = logits()
    student.requires_grad_(), teacher.requires_grad_()
    ops.soft_cross_entropy(student, teacher, center, pairs, **TEMPERATURES)[0].backward()
    assert student.grad.sum(-1).abs().max() < 1e-14
    assert student.grad.abs().max() > 1e-3
    assert teacher.grad is None


def test_a_constant_added_to_teacher_or_center_changes_nothing():
    student, teacher, center, pairs = logits()
    loss = ops.soft_cross_entropy(student, teacher, center, pairs, **TEMPERATURES)[0]
    moved = ops.soft_cross_entropy(student, teacher + 3, center - 2, pairs, **TEMPERATURES)[0]
    torch.testing.assert_close(loss, moved)


def test_temperature_limits():
    student, teacher, center, pairs = logits()
    log_p = (student / 0.5).log_softmax(-1)
    hard = ops.soft_cross_entropy(student, teacher, center, pairs, student_temp=0.5, teacher_temp=1e-4)[0]
    best = (teacher - center).argmax(-1)[pairs.teacher_row]
    torch.testing.assert_close(hard, -(pairs.weight * log_p[pairs.student_row, best]).sum())
    flat = ops.soft_cross_entropy(student, teacher, center, pairs, student_temp=0.5, teacher_temp=1e9)[0]
    torch.testing.assert_close(flat, -(pairs.weight * log_p[pairs.student_row].mean(-1)).sum())


def test_statistics():
    teacher = torch.tensor([[100.0, 0.0, 0.0], [100.0, 0.0, 0.0], [0.0, 100.0, 0.0], [0.0, 0.0, 0.0]])
    student = torch.zeros(1, 3)
    pairs = ops.Pairs(torch.zeros(4, dtype=torch.int64), torch.arange(4), torch.full((4,), 0.25))
    loss, statistics = ops.soft_cross_entropy(
        student, teacher, torch.zeros(3), pairs, student_temp=1.0, teacher_temp=1.0
    )
    third = 1 / 3
    mean = [(2 + third) / 4, (1 + third) / 4, third / 4]
    assert loss.item() == pytest.approx(math.log(3))
    assert statistics.teacher_entropy.item() == pytest.approx(math.log(3) / 4, abs=1e-6)
    assert statistics.marginal_entropy.item() == pytest.approx(-sum(p * math.log(p) for p in mean), abs=1e-6)
    assert statistics.kl.item() == pytest.approx(0.75 * math.log(3), abs=1e-6)
    assert statistics.largest_probability.item() == pytest.approx((3 + third) / 4, abs=1e-6)
    assert statistics.prototypes_used.item() == 2


def test_nan_row_makes_the_loss_nan():
    student, teacher, center, pairs = logits()
    student[pairs.student_row[0]] = math.nan
    assert ops.soft_cross_entropy(student, teacher, center, pairs, **TEMPERATURES)[0].isnan()


def test_half_precision_logits_give_a_float32_loss():
    student, teacher, center, pairs = logits(torch.float32)
    exact = ops.soft_cross_entropy(student, teacher, center, pairs, **TEMPERATURES)[0]
    half = ops.soft_cross_entropy(student.half(), teacher.half(), center, pairs, **TEMPERATURES)[0]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=5e-3, atol=0)


def test_opcheck():
    student, teacher, center, pairs = logits(torch.float32)
    student.requires_grad_()
    rest = (teacher, center, *pairs, 0.5, 0.2, "reference")
    opcheck(torch.ops.esvit_fast.soft_cross_entropy.default, (student, *rest))
    opcheck(torch.ops.esvit_fast.soft_cross_entropy_backward.default, (torch.tensor(0.5), student.detach(), *rest))


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
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    with pytest.raises(error, match=message):
        ops.soft_cross_entropy(**(GOOD | change))

"""The cross-entropy with the last layer inside, against the one of given logits."""

import math

import pytest
import torch
from torch.library import opcheck

from esvit_fast import ops

from .problems import TEMPERATURES, problem


def test_equals_soft_cross_entropy_of_the_logits():
    student, weight, teacher, teacher_weight, center, pairs = problem()
    student.requires_grad_(), weight.requires_grad_()
    fused, statistics = ops.prototype_cross_entropy(
        student, weight, teacher, teacher_weight, center, pairs, **TEMPERATURES
    )
    plain, expected = ops.soft_cross_entropy(
        student @ weight.T, teacher @ teacher_weight.T, center, pairs, **TEMPERATURES
    )
    torch.testing.assert_close(fused, plain, rtol=1e-13, atol=0)
    for ours, theirs in zip(statistics, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    ours = torch.autograd.grad(fused, (student, weight))
    theirs = torch.autograd.grad(plain, (student, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_gradcheck():
    student, weight, *rest = problem()
    student.requires_grad_(), weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: ops.prototype_cross_entropy(x, w, *rest, **TEMPERATURES)[0], (student, weight)
    )


@pytest.mark.parametrize("trained", ["student", "student_weight"])
def test_only_the_gradient_that_is_needed_is_computed(trained, monkeypatch):
    student, weight, *rest = problem()
    {"student": student, "student_weight": weight}[trained].requires_grad_()
    needs = []
    backward = torch.ops.esvit_fast.prototype_cross_entropy_backward
    monkeypatch.setattr(
        torch.ops.esvit_fast,
        "prototype_cross_entropy_backward",
        lambda *args: needs.append(args[-3:-1]) or backward(*args),
    )
    ops.prototype_cross_entropy(student, weight, *rest, **TEMPERATURES)[0].backward()
    assert needs == [(trained == "student", trained == "student_weight")]
    assert (student.grad is None, weight.grad is None) == (trained != "student", trained != "student_weight")


def test_no_length_of_prototypes_means_ln_k():
    student, weight, *rest = problem()
    loss, _ = ops.prototype_cross_entropy(student, 0 * weight, *rest, **TEMPERATURES)
    assert loss.item() == pytest.approx(math.log(7) * rest[-1].weight.sum().item(), rel=1e-13)


def test_equal_teachers_count_as_one_with_both_weights():
    student, weight, teacher, teacher_weight, center, pairs = problem()
    teacher[1] = teacher[0]
    row = pairs.student_row
    zero, one = torch.zeros_like(row), torch.ones_like(row)
    both = ops.Pairs(torch.cat([row, row]), torch.cat([zero, one]), torch.cat([pairs.weight, pairs.weight]))
    double = ops.Pairs(row, zero, 2 * pairs.weight)
    losses = [
        ops.prototype_cross_entropy(student, weight, teacher, teacher_weight, center, p, **TEMPERATURES)[0]
        for p in (both, double)
    ]
    torch.testing.assert_close(*losses)


def test_opcheck():
    student, weight, *matrices, pairs = problem(torch.float32)
    student.requires_grad_(), weight.requires_grad_()
    rest = (*matrices, *pairs, 0.5, 0.2)
    opcheck(torch.ops.esvit_fast.prototype_cross_entropy.default, (student, weight, *rest, "reference"))
    for needs in ((True, True), (False, True), (True, False)):
        opcheck(
            torch.ops.esvit_fast.prototype_cross_entropy_backward.default,
            (torch.tensor(0.5), student.detach(), weight.detach(), *rest, *needs, "reference"),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": torch.zeros(6, 4)}, "must agree in D"),
        ({"teacher_weight": torch.zeros(8, 3)}, r"teacher_weight \(8, 3\).*must have K=7"),
        ({"student": torch.zeros(0, 3)}, "student has shape .* non-empty matrix"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    names = ("student", "student_weight", "teacher", "teacher_weight", "center", "pairs")
    arguments = dict(zip(names, problem(torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        ops.prototype_cross_entropy(**arguments, **TEMPERATURES)

"""The losses over prototypes but for their passes over them: pairs, statistics and gradients in the bottleneck.

With u_m the mean of the student's prototypes by the teacher's row m, and E_r that by the student's row r, the loss is
``sum_p w_p (log sum exp(s_r) - x_r . u_m / student_temp)``; its derivative by x_r is ``(a_r E_r - sum_p w_p u_m) /
student_temp``, a_r the sum of the row's weights; and that by prototype k is ``sum_r P_rk a_r x_r - sum_m Q_mk y_m``,
over student_temp, with y_m the weighted sum of the rows that are paired with m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """What passes are given: tensors of one floating-point dtype, contiguous; arguments of the operator."""

    student: Tensor
    weight: Tensor
    weight_g: Tensor | None
    teacher: Tensor
    teacher_weight: Tensor
    teacher_weight_g: Tensor | None
    center: Tensor
    student_temp: float
    teacher_temp: float
    needs: list[bool]


@dataclass(frozen=True)
class Found:
    """What passes give. Of each row: log of the sum of exponentials, and the mean of the student's prototypes.

    Attributes:
        log_total, mean: of the student; the latter where its gradient is needed.
        teacher_log_total, target: of the teacher.
        entropy, most, best: of each of the teacher's rows, its highest score and the prototype that has it.
        usage: [K], how much of all the teacher's rows each prototype has.
        dweight, dg: gradients, where they are needed.
    """

    log_total: Tensor
    mean: Tensor | None
    teacher_log_total: Tensor
    target: Tensor
    entropy: Tensor
    most: Tensor
    best: Tensor
    usage: Tensor
    dweight: Tensor | None = None
    dg: Tensor | None = None


@dataclass(frozen=True)
class Pull:
    """What moves prototypes: to the student's rows by their weights, and away from what is paired with the teacher's.

    Attributes:
        share: [R], weights of the pairs of each of the student's rows.
        teacher_share: [M], magnitudes of those of the teacher's rows.
        pulled: [M, D], weighted sums of the student's rows that are paired with each of the teacher's.
    """

    share: Tensor
    teacher_share: Tensor
    pulled: Tensor


def outer(given: Problem, pull: Pull | None) -> tuple[Tensor | None, Tensor | None]:
    """What prototypes gain by weights of the student's rows [R, D] and of the teacher's [M, D]; None without a pull."""
    if pull is None:
        return None, None
    return given.student * (pull.share / given.student_temp)[:, None], pull.pulled / -given.student_temp


Passes = Callable[[Problem, Pull | None], Found]
"""passes(problem, pull): the latter None where no gradient of prototypes is needed."""


def cross_entropy(
    passes: Passes,
    student, weight, weight_g, teacher, teacher_weight, teacher_weight_g, center, student_row, teacher_row, pair_weight,
    *, student_temp, teacher_temp, needs,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Loss, statistics and gradients; arguments as `esvit_fast.ops.prototype_cross_entropy`."""
    exact = torch.promote_types(student.dtype, torch.float32)
    tensors = student, weight, weight_g, teacher, teacher_weight, teacher_weight_g, center, pair_weight
    *tensors, pair_weight = (None if x is None else x.to(exact).contiguous() for x in tensors)
    given = Problem(*tensors, student_temp, teacher_temp, needs)
    share, pull = None, None
    if any(needs):
        of_student = by_row(len(student), student_row)
        share = _sums(of_student, pair_weight)
    if any(needs[1:]):
        of_teacher = by_row(len(teacher), teacher_row)
        pulled = _sums(of_teacher, pair_weight, given.student, student_row)
        pull = Pull(share, _sums(of_teacher, pair_weight.abs()), pulled)
    found = passes(given, pull)

    agreement = (given.student[student_row] * found.target[teacher_row]).sum(-1) / student_temp  # [P]
    loss = (pair_weight * (found.log_total[student_row] - agreement)).sum(dtype=_widest(student)).to(exact)
    statistics = statistics_of(
        loss, found.entropy, found.most - found.teacher_log_total, found.best, found.usage, teacher_row, pair_weight
    )
    nothing = loss.new_empty(0)
    dstudent, dg = nothing, nothing
    if needs[0]:
        target = _sums(of_student, pair_weight, found.target, teacher_row)
        dstudent = (found.mean * share[:, None] - target) / student_temp
    if needs[2]:
        dg = found.dg.view(weight_g.shape)
    grads = dstudent, found.dweight, dg
    return loss, statistics, *(d if need else nothing.clone() for d, need in zip(grads, needs, strict=True))


Rows = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]
"""rows(student, teacher, center, start, teacher_row, weight, student_temp, teacher_temp, gradient): all contiguous, the
pairs of row r from start[r] to start[r + 1]. The derivative is written to `gradient`, if there is one. Returns of the
student's rows the loss; of the teacher's the logarithm of the sum of exponentials relative to the highest score, the
entropy, and the prototype that has that score; and usage."""


def soft_cross_entropy(
    rows: Rows, student, teacher, center, student_row, teacher_row, pair_weight, student_temp, teacher_temp, gradient
) -> tuple[Tensor, Tensor]:
    """Loss and statistics of given logits; arguments as `esvit_fast.ops.soft_cross_entropy`."""
    exact = torch.promote_types(student.dtype, torch.float32)
    start, order = by_row(len(student), student_row)
    pair_weight, made = pair_weight.to(exact), gradient
    if teacher.dtype != student.dtype:
        # rounded no more than the oracle does
        student, teacher = student.to(exact), teacher.to(exact)
        made = None if gradient is None else torch.empty_like(student)
    losses, log_total, entropy, best, usage = rows(
        student.contiguous(),
        teacher.contiguous(),
        center.to(exact).contiguous(),
        start,
        teacher_row[order],
        pair_weight[order],
        student_temp,
        teacher_temp,
        made,
    )
    if made is not gradient:
        gradient.copy_(made)
    loss = losses.sum(dtype=_widest(student)).to(exact)
    return loss, statistics_of(loss, entropy, -log_total, best, usage, teacher_row, pair_weight)


def _sums(
    ordered: tuple[Tensor, Tensor], weight: Tensor, rows: Tensor | None = None, row: Tensor | None = None
) -> Tensor:
    """out[i] = sum of weight * rows[row] over the pairs of row i, as `by_row` has them, in their order, [count, D];
    without rows, of weights, [count]."""
    start, order = ordered
    if rows is None:
        wide = weight[:, None].to(_widest(weight))
        bags = F.embedding_bag(order, wide, start, mode="sum", include_last_offset=True)
        return bags.flatten().to(weight.dtype)
    return F.embedding_bag(
        row[order], rows, start, mode="sum", per_sample_weights=weight[order], include_last_offset=True
    )


def _widest(x: Tensor) -> torch.dtype:
    """In which long sums are formed: float64, where a device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def by_row(count: int, row: Tensor) -> tuple[Tensor, Tensor]:
    """Where each of `count` rows begins among pairs that are ordered by it, [count + 1], and that order, [P]."""
    ordered, order = row.sort(stable=True)
    return torch.searchsorted(ordered, torch.arange(count + 1, device=row.device)), order


def statistics_of(loss, entropy, log_peak, best, usage, teacher_row, pair_weight) -> Tensor:
    """`Statistics` as a vector, from the loss, and of the teacher's rows entropy, logarithm of the largest probability
    and the prototype that has it [M], what each prototype has of all of them [K], and pairs."""
    return torch.stack(
        [
            entropy.mean(),
            torch.special.entr(usage / len(entropy)).sum(),
            loss - (pair_weight * entropy[teacher_row]).sum(),
            log_peak.exp().mean(),
            torch.zeros_like(usage).index_fill_(0, best, 1).sum(),
        ]
    )

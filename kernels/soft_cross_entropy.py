"""Cross-entropy of pairs of rows of given logits: probabilities are made where they are used, and never kept."""

import triton
import triton.language as tl


@triton.jit
def _load(logits, center, row, k, count):
    """float32: logits of a row at k, less the centre where there is one; -infinity beyond them."""
    x = tl.load(logits + row * count + k, k < count, float("-inf")).to(tl.float32)
    if center is not None:
        x -= tl.load(center + k, k < count, 0.0)
    return x


@triton.jit
def _describe(logits, center, row, count, scale, BLOCK: tl.constexpr):
    """Of a row: its highest logit, the first place that has it, the sum of exponentials relative to it, and entropy.

    Logits are subtracted before they are scaled, which rounds less than the reverse. Each lane sums on its own before
    all are put together: a row is many blocks long.
    """
    lane = tl.arange(0, BLOCK)
    most = tl.full([BLOCK], float("-inf"), tl.float32)
    where, total, moment = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, count, BLOCK):
        k = start + lane
        x = _load(logits, center, row, k, count)
        where = tl.where(x > most, k, where)
        higher = tl.where((x > most) | (x != x), x, most)
        # a lane that has met nothing yet has nothing to shrink
        drop = tl.where(most == float("-inf"), 0.0, (most - higher) * scale)
        less = tl.where(higher == float("-inf"), float("-inf"), (x - higher) * scale)
        shrink, p = tl.exp(drop), tl.exp(less)
        moment = shrink * (moment + total * drop) + tl.where(less == float("-inf"), 0.0, p * less)
        total = shrink * total + p
        most = higher
    highest = tl.max(most, 0)
    best = tl.min(tl.where(most == highest, where, count), 0)
    best = tl.where(best < count, best, 0)  # where all are no numbers
    drop = tl.where(most == float("-inf"), 0.0, (most - highest) * scale)
    shrink = tl.where(most == float("-inf"), 0.0, tl.exp(drop))
    moment = tl.sum(shrink * (moment + total * drop), 0)
    total = tl.sum(shrink * total, 0)
    return highest, best, total, tl.log(total) - moment / total


@triton.jit
def soft_cross_entropy_rows(logits, center, found, best, rows, count, scale, BLOCK: tl.constexpr):
    """Describe one of the teacher's rows.

    Args:
        logits: [rows, count], float32, float16 or bfloat16; center: float32 [count].
        found: float32 [3, rows]: highest logit less the centre, sum of exponentials relative to it, and entropy.
        best: int64 [rows], the first prototype with that logit.

    The grid is rows.
    """
    row = tl.program_id(0).to(tl.int64)
    highest, place, total, entropy = _describe(logits, center, row, count, scale, BLOCK)
    tl.store(found + row, highest)
    tl.store(found + rows + row, total)
    tl.store(found + 2 * rows + row, entropy)
    tl.store(best + row, place.to(tl.int64))


@triton.jit
def soft_cross_entropy_usage(logits, center, found, usage, rows, count, scale, BLOCK: tl.constexpr):
    """How much of all the teacher's rows one block of prototypes has: float32 [count], rows summed in their order.

    The grid is blocks of prototypes.
    """
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for row in tl.range(0, rows):
        x = _load(logits, center, tl.cast(row, tl.int64), k, count)
        total += tl.exp((x - tl.load(found + row)) * scale) / tl.load(found + rows + row)
    tl.store(usage + k, total, k < count)


@triton.jit
def soft_cross_entropy(
    student,
    teacher,
    center,
    found,
    start,
    teacher_row,
    weight,
    loss,
    gradient,
    teacher_rows,
    count,
    student_scale,
    teacher_scale,
    BLOCK: tl.constexpr,
):
    """Loss of one of the student's rows, and its derivative.

    Args:
        student: [rows, count]; teacher: [teacher_rows, count]; float32, float16 or bfloat16.
        found: of the teacher's rows, as `soft_cross_entropy_rows` has it.
        start: int64 [rows + 1], where the pairs of each row begin among teacher_row, int64, and weight, float32.
        loss: float32 [rows].
        gradient: as student, and it may be the student's logits themselves; None: none is wanted.

    The grid is rows.
    """
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    begin, end = tl.load(start + row), tl.load(start + row + 1)
    most, _, total, _ = _describe(student, None, row, count, student_scale, BLOCK)
    share = 0.0
    for i in tl.range(begin, end):
        share += tl.load(weight + i)
    own, agreed = share / total, tl.zeros([BLOCK], tl.float32)
    for first in tl.range(0, count, BLOCK):
        k, target = first + lane, tl.zeros([BLOCK], tl.float32)
        for i in tl.range(begin, end):
            m = tl.load(teacher_row + i)
            z = (_load(teacher, center, m, k, count) - tl.load(found + m)) * teacher_scale
            target += tl.exp(z) * (tl.load(weight + i) / tl.load(found + teacher_rows + m))
        less = (_load(student, None, row, k, count) - most) * student_scale
        # a score of -infinity that no teacher means costs nothing
        agreed += tl.where(target == 0.0, 0.0, target * less)
        if gradient is not None:
            slope = (tl.exp(less) * own - target) * student_scale
            tl.store(gradient + row * count + k, slope.to(gradient.dtype.element_ty), k < count)
    tl.store(loss + row, share * tl.log(total) - tl.sum(agreed, 0))

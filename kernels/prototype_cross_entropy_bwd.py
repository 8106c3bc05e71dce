"""The gradient of very many prototypes, each of which sums over all rows."""

import triton
import triton.language as tl

from ._prototype_cross_entropy import GAIN, load_rows, store_rows


@triton.jit
def _pull(
    acc, used, w, bias, rows, outer, share, log_total, scale, base, count,
    WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, HALF: tl.constexpr, USAGE: tl.constexpr,
):  # fmt: skip
    """Add softmax weights of a block of prototypes times shares, transposed, times `outer`, which is `rows` where it is
    None; and what rows give each prototype."""
    for start in tl.range(0, count, BLOCK_M):
        r = start + tl.arange(0, BLOCK_M)
        x = load_rows(rows, r, count, WIDTH, BLOCK_D)
        z = tl.dot(w, tl.trans(x), input_precision="ieee") * scale + bias[:, None]
        p = tl.exp(z - tl.load(log_total + r, r < count, 0.0)[None, :])
        p = tl.where((r < count)[None, :], p, 0.0)
        if USAGE:
            used += tl.sum(p, 1)
        if share is not None:
            # less what all would have if all were equal: nothing changes but rounding, which then hurts less
            p = (p - base) * tl.load(share + r, r < count, 0.0)[None, :]
            if HALF:
                p *= GAIN
            if outer is not None:
                x = load_rows(outer, r, count, WIDTH, BLOCK_D)
            acc += tl.dot(p.to(w.dtype), x, input_precision="ieee")
    return acc, used


@triton.jit
def prototype_cross_entropy_bwd(
    student,
    student_prototypes,
    student_share,
    student_log_total,
    teacher,
    teacher_prototypes,
    teacher_outer,
    teacher_share,
    teacher_log_total,
    bias,
    factor,
    weight,
    weight_g,
    length,
    dweight,
    dg,
    usage,
    student_scale,
    teacher_scale,
    base,
    students,
    teachers,
    prototypes,
    WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The gradient of one block of the student's prototypes.

    Args:
        student: [students, WIDTH], rows that are added to prototypes by their weights times student_share, float32
            [students]; teacher: [teachers, WIDTH], whose weights times teacher_share, float32 [teachers], add
            teacher_outer; student_prototypes, teacher_prototypes: [prototypes, WIDTH]; all rows in one dtype.
            Shares None: only `usage` is wanted.
        student_log_total, teacher_log_total: float32, logarithms of each row's sum of exponentials.
        bias: float32 [prototypes], added to the teacher's scores.
        factor: float32 [1], by which all is multiplied in the end.
        weight, weight_g, length: the student's as in `prototype_cross_entropy_prepare`; weight_g None: weight is what
            the gradient is of.
        dweight: float32 [prototypes, WIDTH]; dg: float32 [prototypes], where there is weight_g.
        usage: float32 [prototypes], how much of all the teacher's rows each has.
        base: a weight that is taken from all; what all rows add by equal weights must be nothing.

    The grid is blocks of prototypes.
    """
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    HALF: tl.constexpr = student.dtype.element_ty.primitive_bitwidth == 16
    acc, used = tl.zeros([BLOCK_K, BLOCK_D], tl.float32), tl.zeros([BLOCK_K], tl.float32)
    if student_share is not None:
        w = load_rows(student_prototypes, k, prototypes, WIDTH, BLOCK_D)
        none = tl.zeros([BLOCK_K], tl.float32)
        acc, used = _pull(
            acc, used, w, none, student, None, student_share, student_log_total, student_scale, base,
            students, WIDTH, BLOCK_M, BLOCK_D, HALF, False,
        )  # fmt: skip
    w = load_rows(teacher_prototypes, k, prototypes, WIDTH, BLOCK_D)
    acc, used = _pull(
        acc, used, w, tl.load(bias + k, k < prototypes, 0.0), teacher, teacher_outer, teacher_share, teacher_log_total,
        teacher_scale, base, teachers, WIDTH, BLOCK_M, BLOCK_D, HALF, True,
    )  # fmt: skip
    tl.store(usage + k, used, k < prototypes)
    if student_share is not None:
        acc *= tl.load(factor)
        if weight_g is not None:
            v = load_rows(weight, k, prototypes, WIDTH, BLOCK_D).to(tl.float32)
            norm = tl.load(length + k, k < prototypes, 1.0)
            along = tl.sum(acc * v, 1) / norm
            tl.store(dg + k, along, k < prototypes)
            g = tl.load(weight_g + k, k < prototypes, 0.0).to(tl.float32)
            acc = (g / norm)[:, None] * (acc - (along / norm)[:, None] * v)
        store_rows(dweight, acc, k, prototypes, WIDTH, BLOCK_D)

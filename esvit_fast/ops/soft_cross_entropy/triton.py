"""The cross-entropy of given logits in Triton: rows are read twice; nothing of their size is made but the gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.plan import Facts
from .._core.prototypes import soft_cross_entropy
from .._core.triton import constants, refuse_device


def refuse(facts: Facts) -> str | None:
    """Why the kernels cannot run, or None."""
    return refuse_device(facts)


def forward(student, *args) -> tuple[Tensor, Tensor]:
    """Loss and statistics; arguments as `_core.prototypes.soft_cross_entropy` has them."""
    with torch.cuda.device_of(student):
        return soft_cross_entropy(_rows, student, *args)


def _rows(student, teacher, center, start, teacher_row, weight, student_temp, teacher_temp, gradient):
    from ...kernels import _tables
    from ...kernels import soft_cross_entropy as kernels

    (count, prototypes), teachers = student.shape, len(teacher)
    student_scale, teacher_scale = 1 / student_temp, 1 / teacher_temp
    loss, found, usage = (student.new_empty(shape, dtype=torch.float32) for shape in (count, (3, teachers), prototypes))
    best = student.new_empty(teachers, dtype=torch.int64)
    of_teacher = teacher, center, found
    of_row, of_column = constants(_tables.SOFT_CROSS_ENTROPY), constants(_tables.SOFT_CROSS_ENTROPY_USAGE)
    sizes = teachers, prototypes
    kernels.soft_cross_entropy_rows[(teachers,)](*of_teacher, best, *sizes, teacher_scale, **of_row)
    blocks = -(-prototypes // of_column["BLOCK"])
    kernels.soft_cross_entropy_usage[(blocks,)](*of_teacher, usage, *sizes, teacher_scale, **of_column)
    pairs = start, teacher_row, weight
    kernels.soft_cross_entropy[(count,)](
        student, *of_teacher, *pairs, loss, gradient, *sizes, student_scale, teacher_scale, **of_row
    )
    return loss, found[1].log(), found[2], best, usage

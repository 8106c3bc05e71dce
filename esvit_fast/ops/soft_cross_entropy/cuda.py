"""The cross-entropy of given logits in CUDA C++: a row stays on the chip, and nothing of its size is made but the
gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import cuda_tables as _tables
from .._core.cuda import aligned, refuse_device
from .._core.plan import Facts
from .._core.prototypes import soft_cross_entropy

DTYPES = (torch.float16, torch.bfloat16)


def refuse(facts: Facts) -> str | None:
    """Why the kernels cannot run, or None."""
    return refuse_device(facts, DTYPES) or _refuse_shapes(facts)


def _refuse_shapes(facts: Facts) -> str | None:
    if "student_logits" not in facts.shapes:
        return None
    prototypes = facts.shapes["student_logits"][1]
    if prototypes % _tables.LOGITS:
        return f"K={prototypes} is no multiple of {_tables.LOGITS}"
    architecture = 90 if facts.capability is None else 10 * facts.capability[0] + facts.capability[1]
    needed, room = _tables.row_bytes(prototypes), _tables.ROW_BYTES.get(architecture, _tables.ROW_BYTES_OF_OTHERS)
    if needed > room:
        return f"a row of K={prototypes} logits needs {needed} bytes, and a block's shared memory has {room}"
    return None


def forward(*args) -> tuple[Tensor, Tensor]:
    """Loss and statistics; arguments as `_core.prototypes.soft_cross_entropy` has them."""
    return soft_cross_entropy(_rows, *args)


def _rows(student, teacher, center, start, teacher_row, weight, student_temp, teacher_temp, gradient):
    to = gradient if gradient is None else aligned(gradient)
    given = student if gradient is None or student.data_ptr() != gradient.data_ptr() else to
    tensors = map(aligned, (given, teacher, center, start, teacher_row, weight))
    loss, found, best, usage = _kernels().soft_cross_entropy(*tensors, student_temp, teacher_temp, to)
    if to is not gradient:
        gradient.copy_(to)
    return loss, found[1].log(), found[2], best, usage


def _kernels():
    return torch.ops.esvit_fast_cuda

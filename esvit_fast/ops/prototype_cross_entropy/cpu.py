"""The cross-entropy over prototypes on the CPU: four passes, and few rows' weights in memory at a time."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from .._core.cpu import refuse_device
from .._core.plan import Facts
from .._core.prototypes import Found, Problem, Pull, cross_entropy, outer


def refuse(facts: Facts) -> str | None:
    """Why this backend cannot run, or None."""
    return refuse_device(facts, "student is", dtypes=None)


def forward(*args, **options) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, statistics and gradients; arguments as `esvit_fast.ops.prototype_cross_entropy`."""
    return cross_entropy(_passes, *args, **options)


def scratch_bytes(n: int, width: int, prototypes: int, itemsize: int, values: bool, outer: bool) -> int:
    """What `prototype_assignment` holds beside its results, for rows [n, width] in numbers of `itemsize` bytes."""
    bytes_of_row, most = prototypes * itemsize, 32 << 20
    fit = min(max(most // bytes_of_row // 16 * 16, 16), 256)
    chunk = 16 * ceil(ceil(n / ceil(n / fit)) / 16)
    columns = chunk * min(max(most // (bytes_of_row * chunk), 1), 4, ceil(n / chunk))
    tiles, filled = ceil(prototypes / 128), 16 * ceil(width / 16)
    shares = ceil(tiles / ceil(tiles / 32))
    of_column = prototypes + tiles + width + filled * outer + 2 + shares * (4 + filled * values)
    return columns * (itemsize * of_column + 8 * shares)


def _passes(given: Problem, pull: Pull | None) -> Found:
    assign = torch.ops.esvit_fast_cpu.prototype_assignment
    length, scale = _scale(given.weight, given.weight_g)
    _, teacher_scale = _scale(given.teacher_weight, given.teacher_weight_g)
    pushed, pulled = outer(given, pull)
    dweight = None if pull is None else torch.empty_like(given.weight)
    teacher_log_total, entropy, most, best, target, usage = assign(
        given.teacher,
        given.teacher_weight,
        teacher_scale / given.teacher_temp,
        given.center / -given.teacher_temp,
        given.weight,
        scale,
        pulled,
        dweight,
        True,
    )
    values = (given.weight, scale) if given.needs[0] else (None, None)
    log_total, _, _, _, mean, _ = assign(
        given.student, given.weight, scale / given.student_temp, None, *values, pushed, dweight, False
    )
    dg = None
    if dweight is not None and length is not None:
        dg = torch.ops.esvit_fast_cpu.prototype_weight_norm_backward(
            dweight, given.weight, given.weight_g.flatten(), length
        )
    return Found(log_total, mean, teacher_log_total, target, entropy, most, best, usage, dweight, dg)


def _scale(weight: Tensor, weight_g: Tensor | None) -> tuple[Tensor | None, Tensor]:
    """Lengths of the rows, and what rows are multiplied by, [K]."""
    if weight_g is None:
        return None, weight.new_ones(len(weight))
    length = torch.linalg.vector_norm(weight, dim=1)
    return length, weight_g.flatten() / length

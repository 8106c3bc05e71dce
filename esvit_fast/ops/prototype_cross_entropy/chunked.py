"""The cross-entropy over prototypes by a device's matrix products: scores of few rows are in memory at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core.prototypes import Found, Problem, Pull, cross_entropy, outer

SCORES = 64 << 20
"""Bytes of the scores of one chunk of rows; up to three tensors of that size are there at a time."""


def forward(*args, **options) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, statistics and gradients; arguments as `esvit_fast.ops.prototype_cross_entropy`."""
    return cross_entropy(_passes, *args, **options)


def _passes(given: Problem, pull: Pull | None) -> Found:
    """Four products with prototypes, or six where their gradient is needed; arguments as `Passes` has them."""
    weight, length = _scaled(given.weight, given.weight_g)
    teacher_weight, _ = _scaled(given.teacher_weight, given.teacher_weight_g)
    pushed, pulled = outer(given, pull)
    dweight, dg = None if pull is None else torch.zeros_like(weight), None
    usage = torch.zeros_like(given.center)
    bias = given.center / -given.teacher_temp
    teacher = _assign(given.teacher, teacher_weight, given.teacher_temp, bias, weight, pulled, dweight, usage)
    teacher_log_total, most, best, target, entropy = teacher
    values = weight if given.needs[0] else None
    log_total, _, _, mean, _ = _assign(given.student, weight, given.student_temp, None, values, pushed, dweight, None)
    if dweight is not None and length is not None:
        direction = given.weight / length
        dg = (dweight * direction).sum(1)
        dweight = (dweight - direction * dg[:, None]) * (given.weight_g.view(-1, 1) / length)
    return Found(log_total, mean, teacher_log_total, target, entropy, most, best, usage, dweight, dg)


def _scaled(weight: Tensor, weight_g: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Prototypes, and the lengths [K, 1] that those were divided by, if they were."""
    if weight_g is None:
        return weight, None
    length = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return weight * (weight_g.view(-1, 1) / length), length


def _assign(
    rows: Tensor,
    prototypes: Tensor,
    temp: float,
    bias: Tensor | None,
    values: Tensor | None,
    pulled: Tensor | None,
    dweight: Tensor | None,
    usage: Tensor | None,
) -> list[Tensor | None]:
    """Assign rows to prototypes; add assignments to `usage`, and their products with `pulled` to `dweight`.

    Returns:
        Of each row: the logarithm of the sum of exponentials, the highest score and the prototype that has it; the mean
        of values, and the entropy, which is None without usage.
    """
    found, step = [], max(1, SCORES // (len(prototypes) * rows.itemsize))
    for start in range(0, len(rows), step):
        chosen = slice(start, start + step)
        scores = (rows[chosen] @ prototypes.T).div_(temp)
        if bias is not None:
            scores += bias
        most, best = scores.max(-1)
        weights = scores.sub_(most[:, None]).exp_()
        total = weights.sum(-1)
        mean, entropy = None, None
        if values is not None or pulled is not None:
            weights /= total[:, None]
        if values is not None:
            # of a single row MKL adds one product after the other, where a sum adds pairwise
            mean = weights @ values if len(weights) > 1 else (weights.T * values).sum(0, keepdim=True)
        if pulled is not None:
            dweight.addmm_(weights.T, pulled[chosen])
        if usage is not None:
            usage += weights.sum(0)
            entropy = torch.special.entr(weights).sum(-1)
        found.append((most + total.log(), most, best, mean, entropy))
    return [None if each[0] is None else torch.cat(each) for each in zip(*found, strict=True)]

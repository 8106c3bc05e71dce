"""What the two cross-entropies share: the list of pairs, their checks, and the statistics."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Which student row is matched to which teacher row, and how much that counts.

    Attributes:
        student_row: int64 [P].
        teacher_row: int64 [P].
        weight: float32 [P].
    """

    student_row: Tensor
    teacher_row: Tensor
    weight: Tensor


class Statistics(NamedTuple):
    """What the teacher's assignments say about the health of a run; scalars, not differentiable.

    Attributes:
        teacher_entropy: mean entropy of the teacher's rows, in nats; 0: one prototype each, ln K: no opinion.
        marginal_entropy: entropy of the mean of the teacher's rows, in nats; 0: all rows agree (collapse).
        kl: the loss less the weighted teacher entropy: the Kullback-Leibler divergence.
        largest_probability: mean over teacher rows.
        prototypes_used: how many prototypes are the most probable one of some teacher row.
    """

    teacher_entropy: Tensor
    marginal_entropy: Tensor
    kl: Tensor
    largest_probability: Tensor
    prototypes_used: Tensor


def check_pairs(pairs: Pairs, student: Tensor, teacher: Tensor) -> Pairs:
    """Raise unless `pairs` are three vectors of one length, of the right dtypes, on the device of both matrices.

    That rows are in range is checked on a CPU. A GPU would have to be waited for: there it is checked if
    ESVIT_FAST_CHECK is set.
    """
    device = student.device
    pairs = Pairs(*pairs)
    if pairs.weight.ndim != 1 or not pairs.student_row.shape == pairs.teacher_row.shape == pairs.weight.shape:
        raise ValueError(
            f"pairs have shapes {[tuple(x.shape) for x in pairs]}; they must be three vectors of one length"
        )
    if pairs.weight.numel() == 0:
        raise ValueError("pairs are empty; the loss of no pair is undefined")
    for name, tensor in pairs._asdict().items():
        if tensor.device != device:
            raise TypeError(f"pairs.{name} is on {tensor.device} but the student is on {device}; move it there")
        if not (tensor.is_floating_point() if name == "weight" else tensor.dtype in (torch.int64, torch.int32)):
            wanted = "floating point" if name == "weight" else "int64"
            raise TypeError(f"pairs.{name} has dtype {tensor.dtype}; it must be {wanted}")
    # numbers that are only traced cannot be looked at
    looked_at = type(pairs.weight) is Tensor and not torch.compiler.is_compiling()
    if looked_at and (device.type == "cpu" or os.environ.get("ESVIT_FAST_CHECK")):
        for name, index, rows in (("student", pairs.student_row, student), ("teacher", pairs.teacher_row, teacher)):
            low, high = (x.item() for x in index.aminmax())
            if low < 0 or high >= len(rows):
                raise ValueError(
                    f"pairs.{name}_row has rows from {low} to {high}; the {name} has rows from 0 to {len(rows) - 1}"
                )
    return Pairs(pairs.student_row.long(), pairs.teacher_row.long(), pairs.weight.detach())


def check_temperatures(student_temp: float, teacher_temp: float) -> None:
    """Raise unless both temperatures are positive."""
    for name, value in (("student_temp", student_temp), ("teacher_temp", teacher_temp)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be greater than 0")


def check_matrices(matrices: dict[str, Tensor]) -> None:
    """Raise unless all are non-empty matrices."""
    for name, tensor in matrices.items():
        if tensor.ndim != 2 or 0 in tensor.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be a non-empty matrix")

"""The operator `esvit_fast::region_match`: the most similar teacher region of every student region."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ... import reference
from .._core.checks import check_tensors
from .._core.library import define, implement
from .._core.plan import choose, register_rule
from . import cpu, triton


class Matches(NamedTuple):
    """What each of the student's regions is matched to; [B, Ts], or [B, Q, Ts] for Q views of the teacher.

    Attributes:
        index: int64, the first best of the teacher's regions, as `torch.max` has it.
        similarity: its cosine similarity, float32 (float64 for float64 inputs).
        margin: how much the second best is less similar; infinite where there is but one.
    """

    index: Tensor
    similarity: Tensor
    margin: Tensor


def region_match(
    student: Tensor, teacher: Tensor, *, match_dtype: torch.dtype | None = None, backend: str | None = None
) -> Matches:
    """Best teacher region for each student region by cosine similarity (EsViT, arXiv 2106.09785, section 3.2).

    Args:
        student: [B, Ts, C] floating point.
        teacher: [B, Tt, C] floating point, Tt > 0, or [B, Q, Tt, C]: Q views at once.
        match_dtype: round normalised features and similarities to this dtype, as the published code does under
            autocast, where ties pull matches to the first regions; None: float32, or float64 for float64 inputs.
        backend: one of cuda, triton, cpu, chunked, reference; None: the first that can run.

    Returns:
        `Matches`; not differentiable.

    Numerics:
        Rows are normalised in float32 (float64 for float64 inputs), and similarities are accumulated and compared in
        it; they are not held. A region with a similarity that is no number is matched to the first such.

    Raises:
        ValueError: shapes do not fit.
        TypeError: dtype or device do not fit.
        BackendError: the backend asked for cannot run; with the reasons.
    """
    tensors = {"student": student, "teacher": teacher}
    check_tensors(tensors)
    if student.ndim != 3:
        raise ValueError(f"student has shape {tuple(student.shape)}; it must be [B, tokens, C]")
    if teacher.ndim not in (3, 4):
        raise ValueError(
            f"teacher has shape {tuple(teacher.shape)}; it must be [B, tokens, C] or [B, views, tokens, C]"
        )
    if student.shape[0] != teacher.shape[0] or student.shape[-1] != teacher.shape[-1] or teacher.shape[-2] == 0:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must agree in B and C, "
            "and teacher must have at least one token"
        )
    if match_dtype is not None and not match_dtype.is_floating_point:
        raise TypeError(f"match_dtype={match_dtype} must be a floating-point dtype")
    chosen = choose("region_match", tensors, {"match_dtype": match_dtype}, backend)
    return Matches(*torch.ops.esvit_fast.region_match(student.detach(), teacher.detach(), match_dtype, chosen))


def _fake(student, teacher, match_dtype, backend):
    exact = torch.promote_types(student.dtype, torch.float32)
    shape = (*teacher.shape[:-2], student.shape[1])
    return tuple(student.new_empty(shape, dtype=dtype) for dtype in (torch.int64, exact, exact))


define(
    "region_match",
    "(Tensor student, Tensor teacher, ScalarType? match_dtype, str backend) -> (Tensor, Tensor, Tensor)",
    _fake,
    lambda student, teacher, match_dtype: 2 * student.numel() * math.prod(teacher.shape[1:-1]),
)
implement("region_match", "reference", reference.region_match)
implement("region_match", "cpu", cpu.forward)
implement("region_match", "triton", triton.forward)
register_rule("region_match", "triton", triton.refuse)
register_rule("region_match", "cpu", cpu.refuse)
register_rule("region_match", "reference", lambda facts: None)

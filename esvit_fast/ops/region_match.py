"""The operator `esvit_fast::region_match`: the most similar teacher region of every student region."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import reference
from ._checks import check_tensors
from ._library import define, implement
from ._plan import choose, register_rule


def region_match(
    student: Tensor, teacher: Tensor, *, match_dtype: torch.dtype | None = None, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Best teacher region for each student region by cosine similarity (EsViT, arXiv 2106.09785, section 3.2).

    Args:
        student: [B, Ts, C] floating point.
        teacher: [B, Tt, C] floating point, Tt > 0.
        match_dtype: round normalised features and similarities to this dtype, as the published code does under
            autocast, where ties pull matches to the first regions; None: float32, or float64 for float64 inputs.
        backend: one of cuda, triton, cpu, reference; None: the first that can run.

    Returns:
        index int64 [B, Ts] of the first best teacher region (as `torch.max`), and its similarity [B, Ts] in float32
        (float64 for float64 inputs). Not differentiable.

    Raises:
        ValueError: shapes do not fit.
        TypeError: dtype or device do not fit.
    """
    tensors = {"student": student, "teacher": teacher}
    for name, tensor in tensors.items():
        if tensor.ndim != 3:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be [B, tokens, C]")
    check_tensors(tensors)
    if student.shape[0] != teacher.shape[0] or student.shape[2] != teacher.shape[2] or teacher.shape[1] == 0:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must agree in B and C, "
            "and teacher must have at least one token"
        )
    chosen = choose("region_match", tensors, {"match_dtype": match_dtype}, backend)
    return torch.ops.esvit_fast.region_match(student.detach(), teacher.detach(), match_dtype, chosen)


def _fake(student, teacher, match_dtype, backend):
    exact = torch.promote_types(student.dtype, torch.float32)
    return student.new_empty(student.shape[:2], dtype=torch.int64), student.new_empty(student.shape[:2], dtype=exact)


define(
    "region_match",
    "(Tensor student, Tensor teacher, ScalarType? match_dtype, str backend) -> (Tensor, Tensor)",
    _fake,
)
implement("region_match", "reference", reference.region_match)
register_rule("region_match", "reference", lambda facts: None)

"""Region matching of EsViT (arXiv 2106.09785, section 3.2): the most similar teacher region of every student region."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def region_match(student: Tensor, teacher: Tensor, match_dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Index and cosine similarity of the first best match; arguments as `esvit_fast.ops.region_match`."""
    exact = torch.promote_types(student.dtype, torch.float32)
    student, teacher = (F.normalize(x.to(exact), dim=-1).to(match_dtype or exact) for x in (student, teacher))
    similarity, index = (student @ teacher.transpose(-2, -1)).max(-1)
    return index, similarity.to(exact)

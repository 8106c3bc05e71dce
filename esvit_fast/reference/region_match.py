"""Region matching of EsViT (arXiv 2106.09785, section 3.2): the most similar teacher region of every student region."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def region_match(
    student: Tensor, teacher: Tensor, match_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Index and cosine similarity of the first best match, and margin; arguments as `esvit_fast.ops.region_match`."""
    exact = torch.promote_types(student.dtype, torch.float32)
    student, teacher = (F.normalize(x.to(exact), dim=-1).to(match_dtype or exact) for x in (student, teacher))
    if teacher.ndim == 4:
        student = student.unsqueeze(1)  # [B, 1, Ts, C]: the same for every view of the teacher
    found = (student @ teacher.transpose(-2, -1)).to(exact)
    similarity, index = found.max(-1)
    others = found.scatter(-1, index.unsqueeze(-1), -torch.inf)
    return index, similarity, similarity - others.max(-1).values

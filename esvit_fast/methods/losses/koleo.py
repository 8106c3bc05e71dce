"""A regulariser that keeps the views of different images apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def koleo(rows: Tensor, eps: float = 1e-8) -> Tensor:
    """Mean of -ln(distance to the nearest other row), on the unit sphere: a scalar, lower the more evenly rows spread.

    It is the Kozachenko-Leonenko estimate of differential entropy, negated and without its constants (arXiv
    1806.03198, section 3; arXiv 2304.07193, section 4). Both rows of a pair receive a gradient.

    Args:
        rows: [B, D], B at least 2, of any lengths; they are normalised first.
        eps: added to squared distances, so that equal rows have a finite loss (and no gradient).

    Raises:
        ValueError: there is only one row.
    """
    if len(rows) < 2:
        raise ValueError(f"rows={list(rows.shape)} has no neighbours; koleo_weight needs micro-batches of 2 images")
    rows = F.normalize(rows, dim=-1)
    with torch.no_grad():
        nearest = (rows @ rows.T).fill_diagonal_(-2).argmax(1)
    return -0.5 * ((rows - rows[nearest]).square().sum(1) + eps).log().mean()

"""Liger's last layers with a divergence inside (liger-kernel 0.8.5), made to do the work of `prototype_cross_entropy`.

They take rows one to one, one temperature for both networks, and a mean over rows. Logits being linear, the teacher's
own temperature goes into its rows, and the centre into a bias or into columns of its layer; rows are gathered pair by
pair, of which those with one weight make one call. What remains is the entropy of the teacher: they give the
Kullback-Leibler divergence, whose gradients are those of the cross-entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
from torch import Tensor

MISSING = None if find_spec("liger_kernel") else "liger-kernel is not installed"

Divergence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(student, weight, teacher, teacher_weight, bias of the teacher): mean over rows, at the student's temperature."""


def one_to_one(
    divergence: Divergence,
    trained: tuple[Tensor, Tensor, Tensor],
    teacher: Tensor,
    teacher_weight: Tensor,
    center: Tensor,
    groups: Iterable[tuple[float, Tensor, Tensor]],
    sharper: float,
) -> Tensor:
    """The divergence of pairs.

    Args:
        trained: student rows [R, D], weight [K, D] and its lengths [K, 1].
        groups: what the pairs of a group weigh together, their student rows and their teacher rows.
        sharper: the student's temperature over the teacher's.
    """
    student, weight, weight_g = trained
    weight = torch._weight_norm(weight, weight_g, 0)
    teacher_weight = torch._weight_norm(teacher_weight, torch.ones_like(weight_g.detach()), 0)
    teacher, bias = sharper * teacher, -sharper * center
    return sum(
        share * divergence(student[row], weight, teacher[target], teacher_weight, bias) for share, row, target in groups
    )


def chunked(temperature: float) -> Divergence:
    """`LigerFusedLinearJSDLoss`: plain torch, compiled, for about 1,024 rows at a time."""
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, temperature=temperature)

    def run(student: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, bias: Tensor) -> Tensor:
        labels = torch.zeros(len(student), dtype=torch.int64, device=student.device)  # only rows without one are told
        return loss(student, weight, teacher, teacher_weight, labels, None, bias)

    return run


def fused(temperature: float) -> Divergence:
    """`LigerFusedLinearJSD`: torch's products, and a kernel for the divergence.

    It has no bias: the teacher's rows get a column of ones instead, and seven of zeros, so that they stay aligned.
    """
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    loss = LigerFusedLinearJSD(jsd_beta=0.0, temperature=temperature, accum_dtype=torch.float32)

    def run(student: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, bias: Tensor) -> Tensor:
        return loss(student, weight, *with_bias(teacher, teacher_weight, bias), None)

    return run


def with_bias(rows: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [R, D + 8] and weight [K, D + 8], whose products are those of rows and weight, and the bias."""
    ones, column = rows.new_zeros(len(rows), 8), weight.new_zeros(len(weight), 8)
    ones[:, 0], column[:, 0] = 1, bias
    return torch.cat([rows, ones], 1), torch.cat([weight, column], 1)


def held_chunked(pairs: int, prototypes: int, width: int, itemsize: int) -> int:
    """Bytes: about five matrices of scores of a chunk, and the gradients of two groups."""
    return itemsize * prototypes * (5 * min(pairs, 2047) + 8 * width)


def held_fused(pairs: int, prototypes: int, width: int, itemsize: int) -> int:
    """The same of its chunks, of `width / prototypes` of the rows; ten, in float32, as nothing is compiled."""
    rows = -(-pairs // -(-prototypes // width))
    return 4 * prototypes * (10 * (1 << (rows - 1).bit_length()) + 8 * width) + 4 * itemsize * pairs * width

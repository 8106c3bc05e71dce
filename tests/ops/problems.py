"""Small problems for the two cross-entropies."""

import torch

from esvit_fast.ops import Pairs


def problem(dtype=torch.float64, rows=6, teachers=4, prototypes=7, width=3, pairs=9, seed=0):
    """Matrices, a centre and pairs."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    matrices = normal(rows, width), normal(prototypes, width), normal(teachers, width), normal(prototypes, width)
    chosen = Pairs(
        torch.randint(rows, (pairs,), generator=g),
        torch.randint(teachers, (pairs,), generator=g),
        torch.rand(pairs, generator=g, dtype=dtype),
    )
    return *matrices, normal(prototypes), chosen


TEMPERATURES = {"student_temp": 0.5, "teacher_temp": 0.2}

"""Arithmetic of the operators' matrix products from shapes alone, two for a multiplication and an addition."""

from __future__ import annotations

from collections.abc import Callable

from torch._ops import OpOverloadPacket
from torch.utils.flop_counter import register_flop_formula

FLOPS: dict[str, Callable[..., int]] = {}
"""By name, functions of an operator's arguments but for its backend; who is not here multiplies no matrices."""


def register_flops(name: str, operator: OpOverloadPacket, count: Callable[..., int]) -> None:
    """Let `torch.utils.flop_counter`, and plans, count the arithmetic of an operator."""
    FLOPS[name] = count
    register_flop_formula(operator, get_raw=True)(lambda *args, out_val=None: count(*args[:-1]))

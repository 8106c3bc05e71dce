"""Which kernels have run on a GPU and were right there: what has not is never chosen unless it is asked for."""

from __future__ import annotations

from collections.abc import Mapping

PROVEN: Mapping[tuple[str, str], frozenset[tuple[int, int]]] = {}
"""By operator and backend, the compute capabilities of the GPUs on which a record with a green gate was made."""


def refuse_unproven(op: str, backend: str, capability: tuple[int, int] | None, forced: str | None) -> str | None:
    """Why a backend is not chosen for an operator, or None where a record shows it right or the caller insists."""
    if forced == backend or capability in PROVEN.get((op, backend), ()):
        return None
    where = "on a GPU" if capability is None else f"on a GPU of compute capability {'.'.join(map(str, capability))}"
    return f"it has not run {where} yet; force it with backend={backend!r}"

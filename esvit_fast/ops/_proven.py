"""Which kernels must first be right on a GPU, and on which GPUs they were: others run them only when asked to."""

from __future__ import annotations

from collections.abc import Mapping

PROVEN: Mapping[tuple[str, str], frozenset[tuple[int, int]]] = {
    ("window_attention", "cuda"): frozenset(),
}
"""By operator and backend, the compute capabilities of GPUs on which a record with a green gate was made."""


def unproven(op: str, backend: str, capability: tuple[int, int] | None) -> bool:
    """Whether a backend's kernels are among them, and no record is of such a GPU."""
    return capability not in PROVEN.get((op, backend), (capability,))


def refuse_unproven(op: str, backend: str, capability: tuple[int, int] | None, forced: str | None) -> str | None:
    """Why a backend is not chosen for an operator that nobody forced it for, or None."""
    if forced == backend or not unproven(op, backend, capability):
        return None
    where = "" if capability is None else f" of compute capability {'.'.join(map(str, capability))}"
    return f"it has not run on a GPU{where} yet; force it with backend={backend!r}"

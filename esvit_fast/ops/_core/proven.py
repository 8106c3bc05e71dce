"""On which GPUs kernels have run and were right: where none of it is recorded, they run only when asked to."""

from __future__ import annotations

from collections.abc import Mapping

PROVEN: Mapping[tuple[str, str], frozenset[tuple[int, int]]] = {
    ("multicrop_augment", "triton"): frozenset(),
    ("prototype_cross_entropy", "triton"): frozenset(),
    ("region_match", "triton"): frozenset(),
    ("soft_cross_entropy", "cuda"): frozenset(),
    ("soft_cross_entropy", "triton"): frozenset(),
    ("window_attention", "cuda"): frozenset(),
    ("window_attention", "triton"): frozenset(),
}
"""By operator and backend, the compute capabilities of GPUs on which a record with a green gate was made."""


def unproven(op: str, backend: str, capability: tuple[int, int] | None) -> str | None:
    """Why a backend should not be chosen for an operator on such a GPU, or None where a record shows it right."""
    if capability in PROVEN.get((op, backend), (capability,)):
        return None
    where = "" if capability is None else f" of compute capability {'.'.join(map(str, capability))}"
    return f"it has not run on a GPU{where} yet; set ESVIT_FAST_UNPROVEN=1 to run it all the same"

"""Whether a backend of this library can run a problem, without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from benchmarks.measuring.gpu import on_gpu
from esvit_fast import ops


def backend_refusal(
    operator: str,
    backend: str,
    device: str,
    dtype: torch.dtype,
    shapes: Mapping[str, Sequence[int]],
    options: Mapping[str, object],
) -> str | None:
    """Why a backend cannot run an operator on inputs of these shapes, or None if it can."""
    capability = torch.cuda.get_device_capability(device) if on_gpu(device) else None
    kind = torch.device(device).type
    try:
        ops.plan(operator, ops.Facts(kind, dtype, shapes, options, capability, forced=backend))
    except ops.BackendError as error:
        return str(error)
    return None

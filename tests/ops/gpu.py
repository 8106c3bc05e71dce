"""What the tests marked gpu share: backends that run there, tensors that are moved there, and bits compared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from esvit_fast.ops import BackendError
from esvit_fast.ops._core import native
from esvit_fast.ops._core import plan as _plan

DEVICE = os.environ.get("ESVIT_FAST_TEST_DEVICE", "cuda")
"""Where the tests marked gpu put their tensors; another one shows that the tests themselves are right."""
BACKENDS = os.environ.get("ESVIT_FAST_TEST_BACKENDS", "triton cuda").split()
HALF = [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, *HALF]


def on_kernels_of(stem: str) -> list[pytest.MarkDecorator]:
    """Marks of a file of tests: they need a GPU, and run on all backends that have the operator."""
    backends = [b for b in BACKENDS if b in _plan.implementations(stem)]
    return [pytest.mark.gpu, pytest.mark.parametrize("backend", backends)]


def moved(x):
    """Tensors in mappings, sequences and pairs, on the device of the tests."""
    if isinstance(x, torch.Tensor):
        return x.to(DEVICE)
    if isinstance(x, dict):
        return {name: moved(value) for name, value in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(moved, x))
    return type(x)(map(moved, x)) if isinstance(x, list | tuple) else x


def same_bits(first, second) -> bool:
    """Whether two mappings or sequences of tensors are equal, NaN included."""
    pairs = zip(*(x.values() if isinstance(x, dict) else x for x in (first, second)), strict=True)
    return all(torch.equal(torch.nan_to_num(a, 7), torch.nan_to_num(b, 7)) and a.dtype == b.dtype for a, b in pairs)


@contextmanager
def taken_by(backend: str) -> Iterator[None]:
    """What the CUDA library does not have is skipped; others have everything."""
    try:
        yield
    except BackendError as error:
        if not may_refuse(backend):
            raise
        pytest.skip(str(error))


def may_refuse(backend: str) -> bool:
    """Whether a backend may lack a problem: the CUDA library, but for one that was built and does not load."""
    return backend == "cuda" and (native.CUDA_MISSING is None or not any(native._FOLDER.glob("_C_cuda*.so")))


def needs_memory(gibibytes: float) -> None:
    """Skip where a GPU has not so much left."""
    if DEVICE == "cpu" or torch.cuda.mem_get_info()[0] < gibibytes * 2**30:
        pytest.skip(f"needs {gibibytes:g} GiB of a GPU")

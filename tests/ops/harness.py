"""How kernels are run where a process has to be told before it starts, and what shows that they stray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

SENTINEL, WALL = 12345, 128
"""What stands on either side of a tensor, and how many of them."""


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own, from the repository's root."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def run_with_instruction_set(isa: str, code: str) -> None:
    """Run code with the CPU's kernels for `isa`; skip where the machine lacks it."""
    done = run(code, ESVIT_FAST_CPU_ISA=isa)
    if done.returncode and refused_instruction_set(isa) in done.stderr:
        pytest.skip(f"this machine has no {isa}")
    assert done.returncode == 0, done.stderr


def refused_instruction_set(isa: str) -> str:
    """What a process says that cannot have it."""
    return f"ESVIT_FAST_CPU_ISA='{isa}' must be baseline, avx2 or avx512, and one that this machine has"


def run_in_the_interpreter(module: str, call: str) -> None:
    """Call a function of a test module in Triton's interpreter, which is chosen before triton is imported."""
    before = "import tests.conftest\nfrom tests.ops.harness import find_a_place_in_rows_of_nan as find\nfind()"
    done = run(f"{before}\nfrom {module} import *\n{call}", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


def find_a_place_in_rows_of_nan() -> None:
    """Let the interpreter reduce rows that have no number, as GPUs do: the largest is NaN, and its place is in the row.

    Triton compares pairs, which ends at one of them whatever they are. Since 3.8 the interpreter calls np.nanargmax
    instead, which raises there.
    """
    from triton.runtime import interpreter

    plain = interpreter.ReduceOps.min_max

    def min_max(self, input, val_reduce_op, idx_reduce_op=None):
        def place(x, axis, keepdims):
            nowhere = np.isnan(x).all(axis, keepdims=True)
            return idx_reduce_op(np.where(nowhere, 0, x), axis=axis, keepdims=keepdims)

        return plain(self, input, val_reduce_op, idx_reduce_op and place)

    interpreter.ReduceOps.min_max = min_max


def with_threads(run: Callable[[], object], *counts: int) -> list:
    """What `run()` gives with so many threads each."""
    before, found = torch.get_num_threads(), []
    try:
        for count in counts:
            torch.set_num_threads(count)
            found.append(run())
    finally:
        torch.set_num_threads(before)
    return found


def walled(x: torch.Tensor) -> torch.Tensor:
    """The same tensor between NaNs, or, of integers, between rows that are nowhere."""
    most = torch.nan if x.is_floating_point() else min(10**9, torch.iinfo(x.dtype).max)
    wall = x.new_full((x.numel() + 2 * WALL,), most)
    wall[WALL:-WALL] = x.flatten()
    return wall[WALL:-WALL].view(x.shape)


@contextmanager
def walled_allocations() -> Iterator[list[torch.Tensor]]:
    """Let `new_empty` and `empty_like` give what is between sentinels, and NaN inside; `assert_walls` looks at them."""
    walls, kept = [], torch.Tensor.new_empty

    def new_empty(self, *shape, dtype=None, device=None):
        if device is not None:  # the interpreter's own
            return kept(self, *shape, device=device)
        shape = torch.Size(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        wall = torch.full((shape.numel() + 2 * WALL,), SENTINEL, dtype=dtype or self.dtype)
        walls.append(wall)
        inside = wall[WALL:-WALL].view(shape)
        return inside.fill_(torch.nan) if inside.is_floating_point() else inside

    with (
        patch.object(torch.Tensor, "new_empty", new_empty),
        patch.object(torch, "empty_like", lambda x: new_empty(x, x.shape)),
    ):
        yield walls


def assert_walls(walls: list[torch.Tensor], what: object) -> None:
    """No sentinel is overwritten, and no number that was allocated is left unwritten."""
    for wall in walls:
        assert (torch.cat([wall[:WALL], wall[-WALL:]]) == torch.full((), SENTINEL, dtype=wall.dtype)).all(), what
        assert not wall.is_floating_point() or wall.isfinite().all(), what

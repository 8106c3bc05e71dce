"""A training step on a GPU: the same bits in every run, and the loss of the oracles."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from benchmarks import step as benchmark
from esvit_fast import ops
from esvit_fast.config import load_config
from tests.ops.gpu import DEVICE

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def kernels_run(monkeypatch):
    """Also those that no record is of."""
    monkeypatch.setenv("ESVIT_FAST_UNPROVEN", "1")


def losses(precision, backend=None, steps=3):
    """Loss and gradient norm of each of a few steps."""
    config = benchmark.configured("sample", 8, precision, DEVICE)
    config = replace(config, method=replace(load_config("sample").method, out_dim=2048))
    step = benchmark.stepper(config, lambda: ops.backend(backend), benchmark.make_batch(config))
    done = [step() for _ in range(steps)]
    return torch.stack([torch.stack([each.values["loss"], each.grad_norm.float()]) for each in done])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_has_the_same_bits_in_every_run(precision):
    first = losses(precision)
    assert first.isfinite().all() and torch.equal(first, losses(precision))


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-4), ("bf16", 1e-2)])
def test_a_step_has_the_loss_of_the_oracles(precision, allowed):
    torch.testing.assert_close(losses(precision)[:1], losses(precision, "reference")[:1], rtol=allowed, atol=0)


@pytest.mark.skipif(DEVICE == "cpu", reason="a CPU has nothing to wait for")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_waits_for_nothing(precision):
    config = benchmark.configured("sample", 8, precision, DEVICE)
    step = benchmark.stepper(config, nullcontext, benchmark.make_batch(config))
    step(), step()  # tables are made once, and kernels compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")

"""A training step on a GPU: the same bits in every run, and the loss of the oracles."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from benchmarks.systems import step as benchmark
from esvit_fast import ops
from esvit_fast.config import load_config
from esvit_fast.data.loading.device_decode import HELD_BYTES
from esvit_fast.training import Ranks
from esvit_fast.training.planning.dry_step import dry_step
from tests.ops.gpu import DEVICE

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def kernels_run(monkeypatch):
    """Also those that no record is of."""
    monkeypatch.setenv("ESVIT_FAST_UNPROVEN", "1")


def losses(precision, backend=None, steps=3, drop=0.0, **train):
    """Loss and gradient norm of each of a few steps."""
    config = benchmark.configured("sample", 8, precision, DEVICE)
    config = replace(config, train=replace(config.train, **train), model=replace(config.model, drop_path_rate=drop))
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
@pytest.mark.parametrize("setting", ["replayed", "compiled"])
def test_steps_that_are_replayed_or_compiled_are_the_steps(precision, setting):
    ours = losses(precision, steps=8, drop=0.2, **{"cuda_graph" if setting == "replayed" else "compile": True})
    theirs = losses(precision, steps=8, drop=0.2)
    allowed = 1e-3 if precision == "fp32" else 3e-2
    torch.testing.assert_close(ours, theirs, rtol=allowed, atol=0)
    assert len(ours.unique(dim=0)) == 8


@pytest.mark.skipif(DEVICE == "cpu", reason="a CPU has nothing to wait for")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_step_waits_for_nothing(precision, cuda_graph):
    config = benchmark.configured("sample", 8, precision, DEVICE)
    config = replace(config, train=replace(config.train, cuda_graph=cuda_graph))
    step = benchmark.stepper(config, nullcontext, benchmark.make_batch(config))
    for _ in range(5):  # tables are made once, and kernels compiled, and graphs recorded
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_plan_knows_what_decoding_holds():
    config, ranks = load_config("sample"), Ranks(0, 1, torch.device(DEVICE))
    decode = [dry_step(replace(config, data=replace(config.data, decode=where)), 8, ranks) for where in ("gpu", "cpu")]
    there = HELD_BYTES if DEVICE != "cpu" else 0
    assert decode[0].parts["batch"] - decode[1].parts["batch"] == decode[0].peak - decode[1].peak == there

"""A training step, with timm's attention and with kernels of one kind."""

from __future__ import annotations

import pytest
import torch

from benchmarks.systems import step
from esvit_fast import ops
from esvit_fast.ops._core import plan

# torch's own
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    step._compiled.cache_clear()
    yield
    step._compiled.cache_clear()


def test_a_step_with_timms_attention_is_a_step(uncompiled):
    record = step.measure("sample", ["timm fused, compiled", "esvit_fast"], 2, "fp32", "cpu", 2)
    rows = record["contestants"]
    assert list(rows) == ["plain torch", "timm fused, compiled", "esvit_fast"]
    assert all(row["gate"] == "pass" and row["error"] < 0.1 for row in rows.values())


@pytest.mark.parametrize("operator", [name for name in ops.operators() if "triton" in ops.implementations(name)])
def test_a_step_of_tritons_kernels_has_no_others(monkeypatch, operator):
    monkeypatch.setattr(plan, "capability_of", lambda device: (9, 0))
    with step.CONTESTANTS["esvit_fast triton"]():
        facts = plan.facts_here(torch.device("cuda"), torch.float16, {}, {})
    assert facts.forced == "triton"
    rules = {(operator, "cuda"): lambda facts: None, (operator, "triton"): lambda facts: None}
    assert ops.plan(operator, facts, rules).backend == "triton"


def test_all_that_a_step_runs_on_a_gpu_has_kernels_in_triton():
    """Or a step that asks for them would not run; linear layers are torch's there."""
    assert {name for name in ops.operators() if "triton" not in ops.implementations(name)} == {"linear"}

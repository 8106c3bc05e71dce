"""A training step, with timm's attention and with kernels of one kind."""

from __future__ import annotations

import pytest
import torch

from benchmarks.systems import step
from esvit_fast import ops
from esvit_fast.ops._core.plan import implementations

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


def test_a_step_is_taken_without_cuda_too():
    facts = ops.Facts("cuda", torch.float16, {}, capability=(9, 0), unproven=True)
    with step.without_cuda():
        assert ops.plan("window_attention", facts).backend == "triton"
        assert "cuda" not in implementations("window_attention")
    assert "cuda" in implementations("window_attention")

"""Operators alone: who takes part, what a record has."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measuring import records
from benchmarks.operators import window_attention as benchmark
from benchmarks.operators import window_attention_layer as layer
from benchmarks.operators.window_attention import CASES, Case
from benchmarks.report import reading

# torch's own
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
SMALL = [Case("shifted and padded", 9, 32, 2, 4), Case("shifted", 8, 32, 2, 4), Case("smaller", 3, 32, 2, 7)]
STAGE_1 = CASES[0]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.parametrize("name", ["torch eager", "sdpa", "esvit_fast cpu"])
def test_everyone_computes_the_same(case, name):
    assert benchmark.gate(case, benchmark.CONTESTANTS[name], torch.float32, "cpu") <= 1


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_the_same(case, monkeypatch):
    """Forward and uncompiled, which is all that it does on a CPU; alone, and in a layer."""
    (qkv, table, pads), _ = benchmark.inputs(case, 2, torch.float32, "cpu")
    x, weights, _ = layer.inputs(case, 2, torch.float32, "cpu")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    with torch.no_grad():
        found = benchmark.flex(case, "cpu")(qkv, table, pads)
        torch.testing.assert_close(found, benchmark.oracle(case, "cpu")(qkv, table, pads))
        found = layer.flex_layer(case, weights)(x)
        torch.testing.assert_close(found, layer.eager(case, weights)(x))


def test_a_record_has_the_least_that_anyone_moves():
    """Forward and backward of stage 1 for 64 images: 8 C and 14 C bytes a token in 16 bits."""
    least = benchmark.least(STAGE_1, 64, torch.bfloat16)
    tokens = 64 * 56 * 56
    assert least["forward"] == {"bytes": 8 * 96 * tokens, "flop": 4 * 49 * 96 * tokens}
    assert least["backward"] == {"bytes": 14 * 96 * tokens, "flop": 10 * 49 * 96 * tokens}


def test_a_record_of_operators_alone(tmp_path):
    names = ["torch eager", "sdpa", "flex attention", "esvit_fast cpu", "esvit_fast triton"]
    record = benchmark.measure(SMALL[0], names, 1, torch.float32, "cpu", 2)
    rows = record["contestants"]
    gates = {"flex attention": "absent", "esvit_fast triton": "absent"}
    assert {name: row["gate"] for name, row in rows.items()} == dict.fromkeys(names, "pass") | gates
    for row in rows.values():
        assert ("forward" in row) == ("backward" in row) == ("peak_bytes" in row) == (row["gate"] == "pass")
    assert "absent: it has no backward pass on a CPU" in benchmark.table(record)
    records.append(record, "kernels", tmp_path)
    like = benchmark.identity(SMALL[0], 1, torch.float32)
    assert records.recorded(like, names[:2], "kernels", "cpu", tmp_path)
    assert not records.recorded(like, ["esvit_fast cuda"], "kernels", "cpu", tmp_path)
    assert not records.recorded(like | {"dtype": "torch.float16"}, names, "kernels", "cpu", tmp_path)
    assert "esvit_fast cpu" in " ".join(reading.digest(reading.read(tmp_path)))

"""The benchmark of window attention: who takes part, what the gate stops, what is measured."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo

from benchmarks.operators import window_attention_layer as benchmark
from benchmarks.operators.window_attention import CASES, Case
from benchmarks.operators.window_attention_layer import CONTESTANTS, Contestant, eager

TINY = Case("tiny", 9, 32, 2, 4)
HERE = [name for name, contestant in CONTESTANTS.items() if contestant.refuse(TINY, "cpu", torch.float32) is None]


# both are torch's own
pytestmark = [
    pytest.mark.filterwarnings("ignore:Warning. Profiler clears events"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script"),
]


def test_the_cases_are_those_of_swin():
    assert {
        case.name: (case.side, case.dim, case.num_heads, case.window_size, case.shift_size) for case in CASES[:4]
    } == {
        "swin_t 224 stage 1": (56, 96, 3, 7, 3),
        "swin_t 224 stage 2": (28, 192, 6, 7, 3),
        "swin_t 224 stage 3": (14, 384, 12, 7, 3),
        "swin_t 224 stage 4": (7, 768, 24, 7, 0),
    }
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("name", [name for name in HERE if name != "torch.compile"])
def test_everyone_computes_the_same(name):
    assert benchmark.gate(TINY, CONTESTANTS[name], torch.float32, "cpu") <= 1


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_who_takes_part_on_a_gpu_is_planned_without_one(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: (9, 0))
    for case in CASES:
        refused = {name: contestant.refuse(case, device, torch.bfloat16) for name, contestant in CONTESTANTS.items()}
        assert refused["esvit_fast triton"] is None and refused["flex attention"] is None
        assert "the map is on cuda" in refused["esvit_fast cpu"] and refused["eager, our linear"]


def test_the_gate_stops_the_other_pad_order():
    wrong = Contestant(lambda case, weights: eager(case, weights, "after_roll"), pad_mode="before_roll")
    assert benchmark.gate(TINY, wrong, torch.float32, "cpu") > 100


def test_every_case_is_compiled_anew(monkeypatch):
    """Or sizes would become dynamic, and at last torch would give up compiling without a word."""
    resets = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(1))
    for _ in range(2):
        CONTESTANTS["torch.compile"].make(TINY, benchmark.inputs(TINY, 1, torch.float32, "cpu")[1])
    assert len(resets) == 2


def test_a_record_has_times_of_those_that_passed_only(monkeypatch):
    wrong = Contestant(lambda case, weights: lambda x: 1.0001 * eager(case, weights)(x))
    monkeypatch.setitem(CONTESTANTS, "wrong", wrong)
    names = ["torch eager", "timm", "flex attention", "wrong", "esvit_fast cpu"]
    record = benchmark.measure(TINY, names, 1, torch.float32, "cpu", 2)
    rows = record["contestants"]
    assert {name: row["gate"] for name, row in rows.items()} == {
        "torch eager": "pass",
        "timm": "pass",
        "flex attention": "absent",
        "wrong": "fail",
        "esvit_fast cpu": "pass",
    }
    for name, row in rows.items():
        assert ("training" in row) == ("forward" in row) == ("peak_bytes" in row) == (row["gate"] == "pass"), name
    assert all(0 < row["training"]["p20"] <= row["training"]["p50"] for row in rows.values() if "training" in row)
    table = benchmark.table(record)
    assert "wrong" in table and " ms" not in next(line for line in table.splitlines() if "wrong" in line)
    assert record["shape"] == {"batch": 1, "side": 9, "dim": 32, "heads": 2, "window": 4, "shift": 2}
    assert len(record["commit"]) == 40 and record["environment"]["threads"] == torch.get_num_threads()

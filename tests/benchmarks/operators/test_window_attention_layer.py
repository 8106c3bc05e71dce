"""The benchmark of window attention: who takes part, what the gate stops, what is measured."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
from timm.models.swin_transformer import SwinTransformer

from benchmarks.operators import window_attention_timed as window_attention
from benchmarks.operators.window_attention_layer import CASES, CONTESTANTS, Case, Contestant, eager
from benchmarks.systems import whole_model

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
    assert window_attention.gate(TINY, CONTESTANTS[name], torch.float32, "cpu") <= 1


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_who_takes_part_on_a_gpu_is_planned_without_one(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args: (9, 0))
    for case in CASES:
        refused = {name: contestant.refuse(case, device, torch.bfloat16) for name, contestant in CONTESTANTS.items()}
        assert refused["esvit_fast triton"] is None and refused["flex attention"] is None
        assert "the map is on cuda" in refused["esvit_fast cpu"] and refused["eager, our linear"]


def test_the_gate_stops_the_other_pad_order():
    wrong = Contestant(lambda case, weights: eager(case, weights, "after_roll"), pad_mode="before_roll")
    assert window_attention.gate(TINY, wrong, torch.float32, "cpu") > 100


def test_every_case_is_compiled_anew(monkeypatch):
    """Or sizes would become dynamic, and at last torch would give up compiling without a word."""
    resets = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(1))
    for _ in range(2):
        CONTESTANTS["torch.compile"].make(TINY, window_attention.inputs(TINY, 1, torch.float32, "cpu")[1])
    assert len(resets) == 2


def test_a_record_has_times_of_those_that_passed_only(monkeypatch):
    wrong = Contestant(lambda case, weights: lambda x: 1.0001 * eager(case, weights)(x))
    monkeypatch.setitem(CONTESTANTS, "wrong", wrong)
    names = ["torch eager", "timm", "flex attention", "wrong", "esvit_fast cpu"]
    record = window_attention.measure(TINY, names, 1, torch.float32, "cpu", 2)
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
    table = window_attention.table(record)
    assert "wrong" in table and " ms" not in next(line for line in table.splitlines() if "wrong" in line)
    assert record["shape"] == {"batch": 1, "side": 9, "dim": 32, "heads": 2, "window": 4, "shift": 2}
    assert len(record["commit"]) == 40 and record["environment"]["threads"] == torch.get_num_threads()


def test_a_whole_model_is_patched_in_all_its_blocks():
    models = whole_model.contestants(
        SwinTransformer(
            img_size=64,
            window_size=4,
            embed_dim=16,
            depths=(2, 2),
            num_heads=(1, 2),
            num_classes=5,
            drop_path_rate=0.0,
        )
    )
    assert list(models) == ["timm", "timm fused", "timm compiled", "esvit_fast"]
    del models["timm compiled"]
    images = torch.randn(1, 3, 64, 64)
    for results in zip(*(whole_model.results(model, images) for model in models.values()), strict=True):
        for found in results[1:]:
            torch.testing.assert_close(found, results[0], rtol=1e-3, atol=1e-4 * results[0].abs().max().item())

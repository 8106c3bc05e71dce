"""The benchmark of augmentation: who passes its gate, and what a record has."""

from __future__ import annotations

import pytest
import torch

from benchmarks.operators import multicrop_augment as benchmark
from tests.ops.problems import NATIVE

pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch's own


@pytest.mark.parametrize("name", ["torch eager", "pillow", pytest.param("esvit_fast cpu", marks=NATIVE)])
def test_who_computes_the_same_passes(name):
    assert benchmark.gate(name, torch.float32, "cpu") <= 1


def test_who_does_not_fails(monkeypatch):
    def blurs_not(x, dtype):
        parameters = x.parameters.clone()
        parameters[:, 7] = 0
        return benchmark._ours("reference")(benchmark.Inputs(x.images, parameters), dtype)

    monkeypatch.setitem(benchmark.CONTESTANTS, "torch eager", blurs_not)
    assert benchmark.gate("torch eager", torch.float32, "cpu") > 1


def test_what_is_no_number_fails(monkeypatch):
    def broken(x, dtype):
        found = benchmark._ours("reference")(x, dtype)
        found[0, 0, 0, 0] = torch.nan
        return found

    monkeypatch.setattr(benchmark, "SIZES", {16: (0, 1), 8: (2,)})
    for name in ("torch eager", "pillow"):
        monkeypatch.setitem(benchmark.CONTESTANTS, name, broken)
        assert benchmark.gate(name, torch.float32, "cpu") == torch.inf


def test_a_record_has_everyone(monkeypatch):
    monkeypatch.setattr(benchmark, "SIZES", {16: (0, 1), 8: (2,)})
    record = benchmark.measure(["torch eager", "esvit_fast triton"], 2, torch.float32, "cpu", 2)
    assert record["contestants"]["esvit_fast triton"] == {"gate": "absent", "why": "the crops are on cpu"}
    assert {"augment", "peak_bytes", "error"} <= record["contestants"]["torch eager"].keys()
    assert "2 images of 2 x 16 + 1 x 8 px" in benchmark.table(record)

"""The benchmark of matching regions: who passes its gate, and what a record has."""

from __future__ import annotations

import pytest
import torch

from benchmarks.operators import region_match as benchmark
from benchmarks.operators.region_match import CONTESTANTS, Case, Contestant
from tests.ops.problems import NATIVE

pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch's own
TINY = Case("tiny", 13, 7, channels=40)


@pytest.mark.parametrize("name", ["torch eager", "as published", pytest.param("esvit_fast cpu", marks=NATIVE)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_who_computes_the_same_passes(name, dtype):
    assert benchmark.gate(name, TINY, dtype, "cpu") <= 1


@pytest.mark.parametrize("wrong", ["index", "similarity", "margin"])
def test_who_does_not_fails(monkeypatch, wrong):
    def run(student, teacher):
        found = dict(zip(("index", "similarity", "margin"), benchmark.published(student, teacher), strict=True))
        found[wrong] = (found[wrong] + 1) % 7 if wrong == "index" else found[wrong] * 1.0001
        return tuple(found.values())

    monkeypatch.setitem(CONTESTANTS, "wrong", Contestant(lambda: run))
    assert benchmark.gate("wrong", TINY, torch.float32, "cpu") > 1


@pytest.mark.parametrize("which", [1, 2])
def test_what_is_no_number_fails(monkeypatch, which):
    def run(student, teacher):
        found = list(benchmark.published(student, teacher))
        found[which] = found[which].clone()
        found[which][0, 0, 0] = torch.nan
        return found

    monkeypatch.setitem(CONTESTANTS, "wrong", Contestant(lambda: run))
    assert benchmark.gate("wrong", TINY, torch.float32, "cpu") == torch.inf


def test_a_choice_is_judged_by_how_similar_it_is():
    """1 where the best is chosen, less by what another lacks."""
    student = torch.tensor([[[1.0, 0.0]]])
    teacher = torch.tensor([[[[2.0, 0.0], [3.0, 3.0], [0.0, 1.0]]]])
    found = [benchmark.choice(torch.tensor([[[index]]]), student, teacher).item() for index in range(3)]
    assert found == pytest.approx([1, 0.5**0.5, 0])


def test_the_cases_are_regions_of_a_swin_t():
    everything, large = benchmark.CASES.values()
    assert everything.shapes(8) == {"student": (8, 170, 768), "teacher": (8, 2, 49, 768)}
    assert large.shapes(8)["student"] == (8, 98, 768)
    least = benchmark.least(everything, 8, torch.bfloat16)["forward"]
    assert least == {"bytes": 8 * ((170 + 98) * 768 * 2 + 340 * 16), "flop": 2 * 8 * 340 * 49 * 768}


def test_a_record_has_everyone():
    names = ["torch eager", "as published", "esvit_fast triton"]
    record = benchmark.measure(TINY, names, 2, torch.float32, "cpu", 2)
    rows = record["contestants"]
    assert {name: row["gate"] for name, row in rows.items()} == dict.fromkeys(names[:2], "pass") | {names[2]: "absent"}
    assert {"forward", "peak_bytes", "resident_bytes", "error"} <= rows["as published"].keys()
    assert record["shape"] == {"batch": 2, "student": 13, "teacher": 7, "views": 2, "channels": 40}
    assert "13 regions in 2 x 7, 40 channels" in benchmark.table(record)

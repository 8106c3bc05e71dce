"""The benchmark of the loss of given logits: who passes its gate, and what a record has."""

from __future__ import annotations

import pytest
import torch

from benchmarks.operators import soft_cross_entropy as benchmark
from benchmarks.operators.soft_cross_entropy import CONTESTANTS, Case, Contestant
from tests.ops.problems import NATIVE

pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch's own
TINY = Case("tiny", 4, 130)


@pytest.mark.parametrize("name", ["torch eager", pytest.param("esvit_fast cpu", marks=NATIVE)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_who_computes_the_same_passes(name, dtype):
    assert benchmark.gate(name, TINY, dtype, "cpu") <= 1


@pytest.mark.parametrize("wrong", [lambda loss: 1.0001 * loss, lambda loss: loss + 1e-4 * loss.detach()])
def test_who_does_not_fails(monkeypatch, wrong):
    """In the gradient, or in the loss alone."""
    monkeypatch.setitem(CONTESTANTS, "wrong", Contestant(lambda: lambda x: wrong(benchmark.oracle(x))))
    assert benchmark.gate("wrong", TINY, torch.float32, "cpu") > 1


def test_pairs_are_those_of_a_view_with_the_teachers_others():
    x = benchmark.inputs(TINY, 3, torch.float32, "cpu")
    assert x.student.shape == (12, 130) and x.teacher.shape == (6, 130)
    pairs = set(zip(x.pairs.student_row.tolist(), x.pairs.teacher_row.tolist(), strict=True))
    views = {(0, 1), (1, 0), (2, 0), (2, 1), (3, 0), (3, 1)}
    assert pairs == {(3 * v + image, 3 * q + image) for v, q in views for image in range(3)}
    assert len(x.pairs.weight) == 18 and x.pairs.weight.sum().item() == pytest.approx(1)


def test_a_record_has_everyone_and_the_least_bytes():
    names = ["torch eager", "esvit_fast triton", "esvit_fast cuda"]
    record = benchmark.measure(TINY, names, 2, torch.float32, "cpu", 2)
    rows = record["contestants"]
    assert {name: row["gate"] for name, row in rows.items()} == dict.fromkeys(names, "absent") | {names[0]: "pass"}
    assert {"forward", "training", "peak_bytes", "resident_bytes", "error"} <= rows["torch eager"].keys()
    read = (8 + 4) * 130 * 4 + 4 * 130
    assert {mode: of["bytes"] for mode, of in record["least"].items()} == {
        "forward": read,
        "training": read + 8 * 130 * 4,
    }
    assert "2 images" in benchmark.table(record) and record["case"] in benchmark.table(record)

"""The benchmark of linear layers: who passes its gate, and what a record has."""

from __future__ import annotations

import pytest

from benchmarks.operators import linear as benchmark
from tests.ops.problems import NATIVE

pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch's own
CASE = "swin_t 224 stage 4 proj"


@pytest.mark.parametrize("name", ["torch eager", "torch, oneDNN", pytest.param("esvit_fast cpu", marks=NATIVE)])
def test_who_computes_the_same_passes(name):
    assert benchmark.gate(CASE, name) <= 1


def test_who_does_not_fails(monkeypatch):
    def rounded(*given):
        return [x.half().float() for x in benchmark.CONTESTANTS["torch eager"](*given)]

    monkeypatch.setitem(benchmark.CONTESTANTS, "rounded", rounded)
    assert benchmark.gate(CASE, "rounded") > 1


@NATIVE
def test_a_record_has_everyone_and_the_speed_of_products():
    record = benchmark.measure(CASE, [*benchmark.CONTESTANTS], 1, "cpu", 2)
    assert record["shape"] == {"batch": 1, "tokens": 49, "in": 768, "out": 768}
    for row in record["contestants"].values():
        assert {"forward", "training", "peak_bytes", "error"} <= row.keys()
    first = benchmark.table(record).splitlines()[1].split()
    time = record["contestants"]["torch eager"]["forward"]["p50"]
    assert float(first[6]) == pytest.approx(2 * 49 * 768 * 768 / time / 1e6, abs=1)


def test_a_gpu_is_refused():
    with pytest.raises(SystemExit, match="pass cpu"):
        benchmark.measure(CASE, [], 1, "cuda", 2)

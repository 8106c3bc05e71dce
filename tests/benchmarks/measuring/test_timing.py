"""How things are timed and judged, and how records stand in files."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.measuring import timing as measuring
from benchmarks.report import performance

# torch's own
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")


def test_the_peak_of_memory_counts_what_is_freed_again():
    def run():
        first = torch.empty(2**18)
        second = first + 1
        del first
        return second.sum()

    peak = measuring.peak_bytes(run, "cpu")
    assert 2 * 2**20 <= peak < 2 * 2**20 + 2**14


def test_times_are_interleaved_and_begin_with_another_each_round():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = measuring.interleaved(runs, 3, "cpu")
    assert [order[i : i + 3] for i in range(6, 15, 3)] == [list("abc"), list("bca"), list("cab")]
    assert set(times) == set("abc") and set(times["a"]) == {"p20", "p50", "p80"}


def test_records_stand_on_lines_of_their_own(tmp_path):
    record = {"op": "x", "environment": {"device": "cpu"}}
    file = measuring.append(record, "x", tmp_path)
    with open(file, "a") as lines:
        lines.write('{"op": "cut')
    measuring.append(record, "x", tmp_path)
    assert file.read_text().splitlines() == [json.dumps(record), '{"op": "cut', json.dumps(record)]
    assert performance.read_lines(file) == [record, record]


def test_a_backward_pass_is_timed_alone():
    order = []
    before = {"a": lambda: order.append("graph") or "graph"}
    runs = {"a": lambda given: order.append(given * 2), "b": lambda: order.append("b")}
    times = measuring.interleaved(runs, 2, "cpu", before=before)
    assert order == 2 * [*["graph", "graphgraph", "b"], *["b", "graph", "graphgraph"]]
    assert set(times) == {"a", "b"}


def test_what_does_not_fit_has_no_time(monkeypatch):
    def run():
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    assert measuring.judged(run) == {"gate": "absent", "why": measuring.NO_ROOM}
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    rows = {"a": {"gate": "pass", "error": 0.5}, "b": {"gate": "pass", "error": 0.5}}
    fine = lambda: None  # noqa: E731
    assert measuring.fitting({"a": run, "b": fine}, rows, "cuda") == {"b": fine}
    assert rows["a"] == {"gate": "absent", "error": 0.5, "why": measuring.NO_ROOM} and rows["b"]["gate"] == "pass"

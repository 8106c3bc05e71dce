"""How things are timed."""

from __future__ import annotations

from benchmarks.measuring.timing import interleaved


def test_times_are_interleaved_and_begin_with_another_each_round():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = interleaved(runs, 3, "cpu")
    assert [order[i : i + 3] for i in range(6, 15, 3)] == [list("abc"), list("bca"), list("cab")]
    assert set(times) == set("abc") and set(times["a"]) == {"p20", "p50", "p80"}


def test_a_backward_pass_is_timed_alone():
    order = []
    before = {"a": lambda: order.append("graph") or "graph"}
    runs = {"a": lambda given: order.append(given * 2), "b": lambda: order.append("b")}
    times = interleaved(runs, 2, "cpu", before=before)
    assert order == 2 * [*["graph", "graphgraph", "b"], *["b", "graph", "graphgraph"]]
    assert set(times) == {"a", "b"}

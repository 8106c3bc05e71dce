"""A contest: who is absent, who fails, and what is timed of the others."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measuring.contest import NO_ROOM, Passes, contest, fitting, judged

pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch's own


def test_what_does_not_fit_has_no_time(monkeypatch):
    def run():
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    assert judged(run) == {"gate": "absent", "why": NO_ROOM}
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    rows = {"a": {"gate": "pass", "error": 0.5}, "b": {"gate": "pass", "error": 0.5}}
    fine = lambda: None  # noqa: E731
    assert fitting({"a": run, "b": fine}, rows, "cuda") == {"b": fine}
    assert rows["a"] == {"gate": "absent", "error": 0.5, "why": NO_ROOM} and rows["b"]["gate"] == "pass"


def test_only_who_passed_is_made_and_timed():
    done = []

    def passes(name):
        done.append(f"made {name}")
        return Passes({"forward": lambda: done.append(name), "training": lambda: done.append(name)})

    def gate(name):
        if name == "large":
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")
        return {"right": 0.5, "wrong": 1.001}[name]

    rows = contest(
        ["right", "wrong", "large", "elsewhere"],
        refusal=lambda name: "it is not here" if name == "elsewhere" else None,
        gate=gate,
        passes=passes,
        device="cpu",
        rounds=2,
    )
    assert rows["wrong"] == {"gate": "fail", "error": 1.001}
    assert rows["large"] == {"gate": "absent", "why": NO_ROOM}
    assert rows["elsewhere"] == {"gate": "absent", "why": "it is not here"}
    assert rows["right"].keys() == {"gate", "error", "forward", "training", "peak_bytes"}
    assert done == ["made right", *["right"] * 9]  # two modes of two rounds to warm up and two that count, and memory


def test_what_precedes_a_pass_is_given_to_it_and_the_whole_is_counted():
    sizes, forward = [], lambda: torch.empty(2**18)

    def passes(name):
        backward = lambda out: sizes.append(len(out))  # noqa: E731
        return Passes({"forward": forward, "backward": backward}, {"backward": forward}, lambda: (forward(), forward()))

    rows = contest(["it"], gate=lambda name: 0.0, passes=passes, device="cpu", rounds=2, resident=True)
    assert set(sizes) == {2**18}
    assert 2 * 2**20 <= rows["it"]["peak_bytes"] < 2 * 2**20 + 2**14 and "resident_bytes" in rows["it"]

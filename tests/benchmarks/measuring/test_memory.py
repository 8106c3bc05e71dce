"""How memory is counted."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measuring.memory import peak_bytes, reserved_bytes


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")  # torch's own
def test_the_peak_of_memory_counts_what_is_freed_again():
    def run():
        first = torch.empty(2**18)
        second = first + 1
        del first
        return second.sum()

    peak = peak_bytes(run, "cpu")
    assert 2 * 2**20 <= peak < 2 * 2**20 + 2**14


def test_a_gpu_is_asked_for_what_its_allocator_took(monkeypatch):
    done = []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: done.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: len(done))
    assert reserved_bytes(lambda: done.append("run")) == 3
    assert done == ["empty_cache", "reset_peak_memory_stats", "run"]

"""How benchmarks take time: contestants interleaved in one run, medians, and the peak of memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

from benchmarks.measuring import gpu
from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.memory import peak_bytes


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    device: str,
    *,
    before: Mapping[str, Callable[[], object]] | None = None,
    hidden: bool = False,
) -> dict[str, dict[str, float]]:
    """Milliseconds of every run: 20, 50 and 80 % of `rounds`; each round takes all of them, beginning with another.

    On a GPU by events, with a cold cache.

    Args:
        before: what precedes a run, by name, and is not timed; the run is given its result.
        hidden: launches are no part of a GPU's time.
    """
    names, before = list(runs), before or {}
    taken: dict[str, list[float]] = {name: [] for name in names}
    stopwatch = gpu.Stopwatch(device, hidden) if on_gpu(device) else _clock
    for number in range(-2, rounds if names else -2):  # two rounds to warm up
        for name in names[number % len(names) :] + names[: number % len(names)]:
            given = [before[name]()] if name in before else []
            milliseconds = stopwatch(name, lambda name=name, given=given: runs[name](*given))
            if number >= 0:
                taken[name].append(milliseconds)
    return {name: _quantiles(times) for name, times in taken.items()}


def _clock(name: str, run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begin)


def costs(run: Callable[[], object], device: str) -> dict[str, int | None]:
    """Of a run that was timed: its peak of memory, and how many launches it is on a GPU."""
    found = {"peak_bytes": peak_bytes(run, device)}
    return found | {"launches": gpu.launches(run)} if on_gpu(device) else found


def _quantiles(times: list[float]) -> dict[str, float]:
    p20, _, _, p80 = statistics.quantiles(times, n=5, method="inclusive")
    return {"p20": round(p20, 4), "p50": round(statistics.median(times), 4), "p80": round(p80, 4)}

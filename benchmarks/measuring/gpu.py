"""What measuring on a GPU takes: events around a run, a cold cache, launches counted, clocks noted, ceilings."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable

import torch
from torch.autograd import DeviceType

CYCLES_PER_SECOND = 2e9
"""Of any GPU's processors, at most: a pause of so many cycles is a second or more."""
LONGEST_PAUSE = 0.02
"""Seconds. What takes longer to launch is timed with its gaps, as it is called."""
STATE = {
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "memory_mhz": "clocks.mem",
    "celsius": "temperature.gpu",
    "watts": "power.draw",
    "throttle": "clocks_throttle_reasons.active",
}
"""What a record says of the card, by nvidia-smi's names."""
IDLE = 1
"""The bit of `throttle` that says no more than that nothing runs."""


def on_gpu(device: str) -> bool:
    """Whether times and memory are those of a GPU, whichever."""
    return torch.device(device).type == "cuda"


class Stopwatch:
    """Milliseconds of runs by CUDA events, each with a cold second-level cache.

    Args:
        hidden: launches are not part of the time: the GPU waits until all of a run is queued. That is what a kernel
            takes; without it, gaps between launches count, as they do for whoever calls.
    """

    def __init__(self, device: str, hidden: bool):
        self.hidden = hidden
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self.other = torch.zeros(max(4 * cache, 2**26) // 4, dtype=torch.int32, device=device)
        self.pauses: dict[str, float] = {}

    def __call__(self, name: str, run: Callable[[], object]) -> float:
        """Time a run; the pause before it is as long as launching it took at its last call, and half as much again."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        # the cache is filled by reading: lines that were written would have to be written back within the time
        self.other.amax()
        if self.hidden and name in self.pauses:
            torch.cuda._sleep(int(CYCLES_PER_SECOND * self.pauses[name]))
        begin.record()
        before = time.perf_counter()
        run()
        self.pauses[name] = min(LONGEST_PAUSE, 1.5 * (time.perf_counter() - before))
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end)


def launches(run: Callable[[], object]) -> int | None:
    """Kernels, copies and fills of a run; None where the profiler sees nothing."""
    kinds = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[kinds.CPU, kinds.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    return count_launches(profile.profiler.kineto_results.events()) or None


def count_launches(events) -> int:
    """Of a profile's events, those that a GPU worked on."""
    return sum(e.device_type() == DeviceType.CUDA and "Sync" not in e.name() for e in events)


def state(device: str) -> dict:
    """Driver, clocks, temperature and reasons for throttling as they are now; empty without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return {}
    uuid = str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-")
    query = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={','.join(STATE.values())}"]
    try:
        done = subprocess.run(
            [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True, timeout=20
        )
    except (subprocess.SubprocessError, OSError):
        return {}
    return read_state(done.stdout)


def read_state(line: str) -> dict:
    """A line of nvidia-smi, by our names; what a card does not tell is left out."""
    found = {}
    for name, text in zip(STATE, line.strip().split(", "), strict=False):
        try:
            found[name] = text if name == "driver" else int(text, 16) if name == "throttle" else float(text)
        except ValueError:
            continue
    if "throttle" in found:
        found["throttle"] &= ~IDLE
    return found


def ceilings(device: str) -> dict[str, float]:
    """What this card can do: bytes per second of a large copy, and FLOP per second of a product in bfloat16."""
    stopwatch = Stopwatch(device, hidden=True)
    source = torch.randint(2**31 - 1, (2**28,), dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, device=device).bfloat16() for _ in range(2))

    def best(name: str, run: Callable[[], object]) -> float:
        return min(stopwatch(name, run) for _ in range(12)) / 1e3

    copy = best("copy", lambda: target.copy_(source))
    product = best("product", lambda: a @ b)
    return {"bytes_per_s": 2 * source.nbytes / copy, "flop_per_s": 2 * 8192**3 / product}

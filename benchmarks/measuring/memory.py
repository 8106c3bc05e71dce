"""The memory that a run takes: of torch's allocator, of the process, and what is free."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measuring.gpu import on_gpu
from esvit_fast.training.planning.memory import give_back_freed_memory, system_bytes


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Most memory of torch's allocator that a run holds beyond what was there before.

    On a CPU, what libraries allocate for themselves while they compute is not seen; ours takes up to 2 MiB a thread.
    Neither is what threads of other libraries free, gloo's for one: it counts as held.
    """
    gc.collect()
    if on_gpu(device):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def resident_growth(run: Callable[[], object]) -> int:
    """Most bytes by which a run makes this process grow, whoever allocates them. Linux only."""
    gc.collect()
    give_back_freed_memory()  # or a run would find it and not grow
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = system_bytes("/proc/self/status", "VmRSS")
    run()
    return system_bytes("/proc/self/status", "VmHWM") - before


def reserved_bytes(run: Callable[[], object]) -> int:
    """Most bytes of a GPU that torch's allocator takes for a run."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_reserved()


def free_bytes(device: str) -> int:
    """Memory that can still be taken, with what torch's allocator keeps of a GPU's. Linux only."""
    if on_gpu(device):
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    return system_bytes("/proc/meminfo", "MemAvailable")

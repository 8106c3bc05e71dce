"""How benchmarks measure: a gate first, contestants interleaved in one run, medians, and the peak of memory."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor

from esvit_fast.training.environment import environment

RECORDS = Path(__file__).parent / "records"
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
"""Of a result's largest value: what one rounding may do, whatever plain torch's luck."""


def rms(error: Tensor) -> Tensor:
    """Root of the mean square."""
    return error.square().mean().sqrt()


def worst_ratio(
    found: Sequence[Tensor],
    plain: Sequence[Tensor],
    truth: Sequence[Tensor],
    measures: Sequence[Callable[[Tensor], Tensor]] = (torch.max, rms),
) -> float:
    """The largest error of any result, in units of what is allowed: twice that of plain torch, and a floor."""
    ratios = []
    for ours, theirs, exact in zip(found, plain, truth, strict=True):
        if ours.shape != exact.shape or not ours.isfinite().all():
            return float("inf")
        floor = FLOOR[theirs.dtype] * exact.abs().max()
        for measure in measures:
            error, allowed = (measure((x.double() - exact).abs()) for x in (ours, theirs))
            ratios.append((error / (2 * allowed + floor)).item())
    return max(ratios)


def on_gpu(device: str) -> bool:
    """Whether times and memory are those of a GPU, whichever."""
    return torch.device(device).type == "cuda"


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Milliseconds of every run: 20, 50 and 80 % of `rounds`; each round takes all of them, beginning with another."""
    synchronize = torch.cuda.synchronize if on_gpu(device) else lambda: None
    names = list(runs)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-2, rounds if names else -2):  # two rounds to warm up
        for name in names[number % len(names) :] + names[: number % len(names)]:
            synchronize()
            begin = time.perf_counter()
            runs[name]()
            synchronize()
            if number >= 0:
                taken[name].append(1e3 * (time.perf_counter() - begin))
    return {name: _quantiles(times) for name, times in taken.items()}


def _quantiles(times: list[float]) -> dict[str, float]:
    p20, _, _, p80 = statistics.quantiles(times, n=5, method="inclusive")
    return {"p20": round(p20, 4), "p50": round(statistics.median(times), 4), "p80": round(p80, 4)}


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Most memory of torch's allocator that a run holds beyond what was there before.

    On a CPU, what libraries allocate for themselves while they compute is not seen; ours takes up to 2 MiB a thread.
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
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is given back, or a run would find it and not grow
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    return next(
        1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if field in line
    )


def free_bytes(device: str) -> int:
    """Memory that can still be taken, with what torch's allocator keeps of a GPU's. Linux only."""
    if on_gpu(device):
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def provenance(device: str, world_size: int = 1) -> dict:
    """When, at which commit and on what a record was made."""
    return {
        "utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        "environment": environment(device, world_size),
    }


def git(*arguments: str) -> str:
    """What git says about this checkout."""
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def append(record: dict, name: str, records: Path = RECORDS) -> Path:
    """Add a line to records/<device>/<name>.jsonl."""
    device = record["environment"]["device"]
    device = torch.cuda.get_device_name(device) if on_gpu(device) else "cpu"
    file = records / device.replace(" ", "-").lower() / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a") as lines:
        lines.write(json.dumps(record) + "\n")
    return file

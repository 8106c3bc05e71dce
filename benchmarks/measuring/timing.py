"""How benchmarks measure: a gate first, contestants interleaved in one run, medians, and the peak of memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from benchmarks.measuring import gpu
from benchmarks.report.performance import append_line, commit, git, read_lines
from esvit_fast.runs.environment import environment
from esvit_fast.training.planning.memory import give_back_freed_memory, system_bytes

RECORDS = Path(__file__).parents[1] / "records"
NO_ROOM = "it does not fit the memory"


def on_gpu(device: str) -> bool:
    """Whether times and memory are those of a GPU, whichever."""
    return torch.device(device).type == "cuda"


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


def judged(ratio: Callable[[], float]) -> dict:
    """The gate of a contestant: passed or not, its error; absent, and why, if it does not fit the memory."""
    try:
        error = ratio()
    except torch.OutOfMemoryError:
        return {"gate": "absent", "why": NO_ROOM}
    return {"gate": "pass" if error <= 1 else "fail", "error": round(error, 3)}


def _quantiles(times: list[float]) -> dict[str, float]:
    p20, _, _, p80 = statistics.quantiles(times, n=5, method="inclusive")
    return {"p20": round(p20, 4), "p50": round(statistics.median(times), 4), "p80": round(p80, 4)}


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


def fitting(runs: Mapping[str, Callable], rows: dict[str, dict], device: str) -> dict[str, Callable]:
    """Those that fit a GPU's memory; the rows of the others say that they do not."""
    return {name: run for name, run in runs.items() if not on_gpu(device) or _fits(name, run, rows)}


def _fits(name: str, run: Callable[[], object], rows: dict[str, dict]) -> bool:
    try:
        run()
    except torch.OutOfMemoryError:
        rows[name] = rows[name] | {"gate": "absent", "why": NO_ROOM}
        return False
    finally:
        torch.cuda.empty_cache()
    return True


_CHANGES = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/records")
"""Records are no part of what is measured: a run that writes several is not of a changed tree."""


def provenance(device: str, world_size: int = 1) -> dict:
    """When, at which commit and on what a record was made."""
    return {
        "utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "dirty": bool(git(*_CHANGES)) if git("rev-parse", "HEAD") else None,
        "environment": environment(device, world_size),
        **({"card": gpu.state(device)} if on_gpu(device) else {}),
    }


def folder(device: str, records: Path = RECORDS) -> Path:
    """Where the records of a device lie."""
    name = torch.cuda.get_device_name(device) if on_gpu(device) else "cpu"
    return records / name.replace(" ", "-").lower()


def append(record: dict, name: str, records: Path = RECORDS) -> Path:
    """Add a line to records/<device>/<name>.jsonl, for good before the next measurement begins."""
    file = folder(record["environment"]["device"], records) / f"{name}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    append_line(file, record)
    return file


def recorded(like: Mapping, names: Sequence[str], name: str, device: str, records: Path = RECORDS) -> bool:
    """Whether a record of this commit has these entries and contestants, so that it need not be made again."""
    file = folder(device, records) / f"{name}.jsonl"
    wanted = {**like, "commit": commit()}
    return any(
        wanted == {key: record.get(key) for key in wanted} and set(names) <= set(record.get("contestants", []))
        for record in read_lines(file)
    )

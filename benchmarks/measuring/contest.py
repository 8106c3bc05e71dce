"""A contest: whoever can compute something is judged by its error first, and then timed in turns with the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.memory import resident_growth
from benchmarks.measuring.timing import costs, interleaved
from esvit_fast.ops import BackendError

NO_ROOM = "it does not fit the memory"


@dataclass(frozen=True)
class Passes:
    """What is timed of a contestant.

    Attributes:
        timed: its passes by mode, in the order in which modes are timed.
        before: by mode, what precedes a pass and is not timed; the pass is given its result.
        whole: what memory and launches are counted of; the last pass without it.
    """

    timed: Mapping[str, Callable[..., object]]
    before: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    whole: Callable[[], object] | None = None

    @property
    def counted(self) -> Callable[[], object]:
        """What memory and launches are counted of."""
        return self.whole or [*self.timed.values()][-1]


def contest(
    names: Sequence[str],
    *,
    gate: Callable[[str], float],
    passes: Callable[[str], Passes],
    device: str,
    rounds: int,
    refusal: Callable[[str], str | None] = lambda name: None,
    hidden: bool = False,
    resident: bool = False,
) -> dict[str, dict]:
    """Rows of a record by contestant: who is absent and why, the error of the others, and what those take that passed.

    Args:
        gate: the error of a contestant, in units of what is allowed; above 1 it has no time.
        passes: what is timed of a contestant; only asked for who passed.
        refusal: why a contestant cannot take part, or None.
        hidden: launches are no part of a GPU's time.
        resident: on a CPU, also by how much the process grows.
    """
    rows: dict[str, dict] = {}
    made: dict[str, Passes] = {}
    for name in names:
        reason = refusal(name)
        rows[name] = judged(lambda name=name: gate(name)) if reason is None else {"gate": "absent", "why": reason}
        if rows[name]["gate"] == "pass":
            made[name] = passes(name)
    whole = fitting({name: passes.counted for name, passes in made.items()}, rows, device)
    made = {name: made[name] for name in whole}
    for mode in dict.fromkeys(mode for passes in made.values() for mode in passes.timed):
        runs = {name: passes.timed[mode] for name, passes in made.items()}
        before = {name: passes.before[mode] for name, passes in made.items() if mode in passes.before}
        for name, times in interleaved(runs, rounds, device, before=before, hidden=hidden).items():
            rows[name][mode] = times
    for name, run in whole.items():
        rows[name] |= costs(run, device)
        if resident and not on_gpu(device):
            rows[name]["resident_bytes"] = resident_growth(run)
    return rows


def judged(ratio: Callable[[], float]) -> dict:
    """The gate of a contestant: passed or not, its error; absent, and why, if it does not fit or a backend refuses."""
    try:
        error = ratio()
    except torch.OutOfMemoryError:
        return {"gate": "absent", "why": NO_ROOM}
    except BackendError as refused:
        return {"gate": "absent", "why": str(refused)}
    return {"gate": "pass" if error <= 1 else "fail", "error": round(error, 3)}


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

"""Reading records: which is the newest, what its contestants took, and what must not be said behind a red gate."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.measuring.checkout import OPERATORS, RECORDS
from benchmarks.measuring.lines import read_lines
from benchmarks.measuring.words import milliseconds, ours
from benchmarks.registry import Benchmark, benchmarks


def by_file() -> dict[str, Benchmark]:
    """The benchmarks whose records hold contests, by the file of their records."""
    return {benchmark.file: benchmark for benchmark in benchmarks().values() if benchmark.modes}


class Entry(NamedTuple):
    """A line of records/<device>/<file>.jsonl."""

    device: str
    file: str
    record: dict


class Line(NamedTuple):
    """A contestant in one mode of a record; what is None is not known, or not to be said.

    Attributes:
        times: how many times as long the fastest peer takes; of ours alone, and only where every gate is green.
        of_floor: the time, relative to the least that this device could take.
    """

    name: str
    gate: str
    p20: float | None = None
    p50: float | None = None
    p80: float | None = None
    times: float | None = None
    of_floor: float | None = None
    peak_bytes: int | None = None
    launches: int | None = None
    why: str = ""


def read(records: Path = RECORDS) -> list[Entry]:
    """All records of a folder, each device's in the order in which they were made."""
    return [
        Entry(path.parent.name, path.stem, record)
        for path in sorted(records.glob("*/*.jsonl"))
        for record in read_lines(path)
    ]


def devices(entries: Iterable[Entry]) -> list[str]:
    """The devices of records as they come, the CPU last."""
    return sorted(dict.fromkeys(entry.device for entry in entries), key=lambda name: name == "cpu")


def name_of(environment: Mapping) -> str:
    """What a record was measured on, as people call it."""
    return environment.get("gpu") or f"{environment['processor']}, {environment['cores']} cores"


def short(commit: str | None) -> str:
    """A commit as it is shown."""
    return commit[:7] if commit else "unknown"


def newest(entries: Iterable[Entry]) -> list[Entry]:
    """The last record of each case, dtype and shape."""
    found: dict[str, Entry] = {}
    for entry in entries:
        keys = ("op", "case", "dtype", "shape", "recipe", "view_only", "seed", "tool")
        key = json.dumps([entry.device, entry.file, *(entry.record.get(k) for k in keys)], sort_keys=True)
        found.pop(key, None)
        found[key] = entry
    return list(found.values())


def red(
    entries: Iterable[Entry], device: str, commit: str | None, files: Sequence[str] = ("tests", "sanitizer")
) -> dict[str, str]:
    """Operators whose tests or sanitizer failed on a device at a commit, and in which."""
    found = {}
    here = (e for e in entries if (e.device, e.record.get("commit")) == (device, commit) and e.file in files)
    for entry in newest(here):
        record = entry.record
        if record["gate"] == "fail":
            # what is of no operator's, is of all
            for stem in [record["stem"]] if record["stem"] in OPERATORS else OPERATORS:
                found.setdefault(stem, record["case"])
    return found


def tested(entries: Iterable[Entry], device: str, commit: str | None) -> set[str]:
    """Operators whose tests ran on a device at a commit, red or green."""
    return {
        e.record["stem"]
        for e in entries
        if (e.device, e.file) == (device, "tests") and e.record.get("commit") == commit
    }


def proven(entries: Sequence[Entry]) -> dict[tuple[str, str], set[tuple[int, int]]]:
    """By operator and backend, the capabilities of the GPUs on which all tests passed when they ran last."""
    found: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for device, _, record in (entry for entry in newest(entries) if entry.file == "tests"):
        named = re.search(r"sm_(\d+)(\d)$", record["environment"].get("gpu", ""))
        if named and record["gate"] == "pass" and record["stem"] not in red(entries, device, record.get("commit")):
            for backend in record["backends"]:
                found.setdefault((record["stem"], backend), set()).add((int(named[1]), int(named[2])))
    return found


def floor(entries: Sequence[Entry], entry: Entry, mode: str) -> float | None:
    """Milliseconds that a mode of a record takes at least, by the ceilings of its own device; None without them."""
    known = [e.record for e in entries if (e.device, e.file) == (entry.device, "ceilings")]
    least = entry.record.get("least", {}).get(mode)
    if not known or least is None:
        return None
    return 1e3 * max(least["bytes"] / known[-1]["bytes_per_s"], least["flop"] / known[-1]["flop_per_s"])


def lines(entries: Sequence[Entry], entry: Entry, mode: str) -> list[Line]:
    """All contestants of a record; no time and no comparison where a gate is red."""
    rows, file = entry.record["contestants"], entry.file
    broken = red(entries, entry.device, entry.record.get("commit"))
    benchmark = by_file()[file]
    because = next((broken[stem] for stem in benchmark.operators or (benchmark.name,) if stem in broken), None)
    timed = {name: row[mode]["p50"] for name, row in rows.items() if row["gate"] == "pass" and mode in row}
    peers = [time for name, time in timed.items() if not ours(name)]
    least, found = floor(entries, entry, mode), []
    for name, row in rows.items():
        if ours(name) and because is not None and row["gate"] == "pass":
            found.append(Line(name, "fail", why=f"red in {because}"))
        elif name not in timed:
            found.append(Line(name, row["gate"], why=row.get("why") or f"error {row.get('error')} of what is allowed"))
        else:
            time = timed[name]
            times = min(peers) / time if ours(name) and peers else None
            quantiles = (row[mode][key] for key in ("p20", "p50", "p80"))
            extra = row.get("peak_bytes"), row.get("launches")
            found.append(Line(name, "pass", *quantiles, times, time / least if least else None, *extra))
    return found


def digest(entries: Sequence[Entry]) -> list[str]:
    """A line for each thing that was measured: ours beside the fastest peer and the floor."""
    found, contests = [], by_file()
    for entry in newest(entries):
        record = entry.record
        if entry.file in ("tests", "sanitizer"):
            found.append(f"{entry.file:24} {record['case']:42} {record['gate']}")
        elif entry.file == "ceilings":
            copy, product = record["bytes_per_s"] / 1e12, record["flop_per_s"] / 1e12
            found.append(f"{entry.file:24} {copy:.2f} TB/s, {product:.0f} TFLOP/s in bfloat16")
        for mode in contests[entry.file].modes if entry.file in contests else ():
            of = lines(entries, entry, mode)
            what = f"{entry.file:24} {record['case'][:26]:26} {mode:8}"
            for line in (line for line in of if line.name.startswith("esvit_fast") and line.gate != "absent"):
                if line.p50 is None:
                    found.append(f"{what} {line.name:19} gate {line.gate}: {line.why}")
                    continue
                times = f" {line.times:6.2f}x the fastest peer" if line.times else ""
                share = f", {line.of_floor:.2f} of the floor" if line.of_floor else ""
                found.append(f"{what} {line.name:19} {milliseconds(line.p50):>9}{times}{share}")
    return found

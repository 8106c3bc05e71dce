"""docs/performance.md from committed records alone: `python -m benchmarks.report write`, `check` or `add DIR`.

`check` says whether the page is that of the records; `add` takes the records of a battery's folder into the repository
and writes the page; `report DIR` writes report.html and report.png of the records there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "benchmarks" / "records"
PAGE = ROOT / "docs" / "performance.md"
STEMS = tuple(sorted(path.parent.name for path in (ROOT / "esvit_fast" / "ops").glob("[!_]*/op.py")))
MODES = {
    "kernels": ("forward", "backward"),
    "window_attention": ("forward", "training"),
    "linear": ("forward", "training"),
    "prototype_cross_entropy": ("training",),
    "multicrop_augment": ("augment",),
    "loader": ("load",),
    "step": ("training",),
    "model": ("training",),
}
"""What the records of each file time; `training` is forward and backward."""
USES = {
    "step": STEMS,
    "model": ("window_attention", "linear"),
    "window_attention": ("linear",),
    "kernels": ("window_attention",),
    "loader": ("multicrop_augment",),
}
"""The operators that a file's records depend on, other than the one of its name."""


def commit() -> str | None:
    """The commit of this checkout; of a copy without git's folder, what ESVIT_FAST_COMMIT says, or None."""
    return git("rev-parse", "HEAD") or os.environ.get("ESVIT_FAST_COMMIT")


def git(*arguments: str) -> str:
    """What git says about this checkout; nothing where there is no git, or no repository of its own."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


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


def read_lines(path: Path) -> list[dict]:
    """The lines of a file that are whole; a run may have been cut short within one."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def append_line(path: Path, fields: Mapping) -> None:
    """Add a line to a file, for good before anything else happens."""
    with open(path, "ab+") as lines:
        if lines.tell():
            lines.seek(-1, os.SEEK_END)
        whole = lines.read(1) in (b"", b"\n")  # or a run was cut short within its line
        lines.write((b"" if whole else b"\n") + json.dumps(fields).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())


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
            for stem in [record["stem"]] if record["stem"] in STEMS else STEMS:
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


def ours(name: str) -> bool:
    """Whether a contestant is this library, or has a part of it."""
    return "esvit_fast" in name or "our " in name


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
    because = next((broken[stem] for stem in USES.get(file, (file,)) if stem in broken), None)
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
    found = []
    for entry in newest(entries):
        record = entry.record
        if entry.file in ("tests", "sanitizer"):
            found.append(f"{entry.file:24} {record['case']:42} {record['gate']}")
        elif entry.file == "ceilings":
            copy, product = record["bytes_per_s"] / 1e12, record["flop_per_s"] / 1e12
            found.append(f"{entry.file:24} {copy:.2f} TB/s, {product:.0f} TFLOP/s in bfloat16")
        for mode in MODES.get(entry.file, ()):
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


def milliseconds(value: float) -> str:
    """A time with three digits: 41.2 us, 0.827 s."""
    for unit, size in (("s", 1e3), ("ms", 1.0), ("us", 1e-3)):
        if value >= size * (1 if unit != "us" else 0):
            number = value / size
            digits = 0 if number >= 100 else 1 if number >= 10 else 2
            return f"{number:,.{digits}f} {unit}"
    raise ValueError(f"value={value} must not be negative")


def add(source: Path, records: Path = RECORDS) -> list[Path]:
    """Take the records of a battery's folder into the repository.

    Raises:
        ValueError: a record is of a tree that was not committed: it shows nothing that others have.
    """
    entries, known, written = read(source / "records"), {json.dumps(e.record) for e in read(records)}, []
    for entry in entries:
        if entry.record.get("dirty") or entry.record.get("commit") is None:
            raise ValueError(f"a record of {entry.file} is of no commit; commit, and measure again")
    for entry in entries:
        if json.dumps(entry.record) not in known:
            path = records / entry.device / f"{entry.file}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            append_line(path, entry.record)
            written.append(path)
    return sorted(set(written))


def write_report(entries: Sequence[Entry], out: Path) -> list[Path]:
    """Write report.html, and report.png where matplotlib is installed."""
    from benchmarks.report import html as performance_report

    return performance_report.write(entries, out)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the page, add records, or write a report."""
    from benchmarks.report.page import page

    parser = argparse.ArgumentParser("python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("write", "check", "add", "report"))
    parser.add_argument("folder", type=Path, nargs="?", help="add: a battery's; report: where it is written")
    args = parser.parse_args(argv)
    if args.action in ("add", "report") and args.folder is None:
        parser.error(f"{args.action} needs a folder")
    if args.action == "add":
        try:
            print(*add(args.folder), sep="\n")
        except ValueError as error:
            parser.error(str(error))
    if args.action == "report":
        inside = args.folder / "records"
        print(*write_report(read(inside if inside.exists() else RECORDS), args.folder), sep="\n")
        return 0
    text = page(read())
    if args.action == "check":
        same = PAGE.exists() and PAGE.read_text() == text
        print("the page is that of the records" if same else f"{PAGE.name} is not: python -m benchmarks.report write")
        return int(not same)
    PAGE.write_text(text)
    return 0

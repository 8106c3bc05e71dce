"""The page docs/performance.md: a pure function of records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.measuring.checkout import OPERATORS
from benchmarks.measuring.words import milliseconds, ours
from benchmarks.report.reading import (
    Entry,
    Line,
    by_file,
    devices,
    floor,
    lines,
    name_of,
    newest,
    red,
    short,
    tested,
)

INTRODUCTION = """# Performance
Written by `python -m benchmarks.report write`: every measured number is from the records in
[benchmarks/records](../benchmarks/records), and a test compares the two. What is not in a record is not claimed.
"""
METHOD = """## How it is measured
- **The gate comes first.** Every contestant's outputs and gradients are compared with the oracle in float64. Its error,
  at most and root mean square, may be twice that of plain torch in the same dtype, plus one rounding. Who fails has no
  time. On a GPU, an operator whose tests or whose sanitizer run failed at the record's commit has no time either.
  Five differ: the loss and gradient norm of a step are those of plain torch to 1e-4 in float32 and 1e-2 otherwise; of
  a whole model the root mean square is held so, and in float32 the largest error to 1e-5 of the largest value; colours
  of an augmentation are held to 1e-5 and one rounding, to 2/255 where solarisation may fall on either side, and those
  of Pillow to 2/255 on average; crops and views from files are held to those of Pillow with the same draws, 2 levels
  on average, and those of torchvision's transforms, which draw for themselves, by brightness, contrast, saturation and
  sharpness of each kind of view, to 4 standard errors and 0.002; matches of regions are held by how similar the chosen
  region truly is, and their similarity and margin, which are statistics, to 2e-6.
- **Contestants take turns** in one process; each round begins with another. Stated is the median.
- **On a GPU** times are between CUDA events, with a second-level cache that holds something else (it is filled by
  reading: written lines would have to be written back within the time). Operators alone are timed with their launches
  hidden: the GPU waits until all of them are queued. Layers, losses, models and steps are timed as they are called.
- **The floor** of an operator alone is the longer of two times: the least bytes that any implementation moves over the
  copying speed of the same card, and its multiplications over the speed of a large product in bfloat16. For windows of
  7 x 7 in bfloat16, 64 images, stage 1 of Swin-T, bytes alone say 35.8 us forward and 62.7 us backward at 4.3 TB/s.
- **Memory** is the peak of torch's allocator beyond what was there before; on a CPU also the growth of the process.
- **A record** names device, driver, clocks and reasons for throttling, versions, commit, and whether the tree was
  changed. `python benchmarks/battery.py --out DIR` makes them on a GPU machine, the most important first, as many as
  `--minutes` allow, and goes on where it stopped when it is run again;
  `python -m benchmarks.report add DIR` takes them into the repository.

Times of one case vary from run to run: on a shared CPU by a third, ratios too.
"""
FIRST = (
    "step",
    "prototype_cross_entropy",
    "kernels",
    "window_attention",
    "linear",
    "model",
    "loader",
    "multicrop_augment",
)
"""Files of records, the most important first; those of other benchmarks follow."""


def titles() -> dict[str, str]:
    """The sections of a device, by the file of their records, in their order."""
    contests = by_file()
    files = sorted(contests, key=lambda file: (FIRST.index(file) if file in FIRST else len(FIRST), file))
    return {file: contests[file].title for file in files} | {"learning": "What recipes learn"}


def page(entries: Sequence[Entry]) -> str:
    """The whole page."""
    parts = [INTRODUCTION, _where(entries), METHOD, *(_device(entries, device) for device in devices(entries))]
    return "\n".join(parts).rstrip() + "\n"


def _where(entries: Sequence[Entry]) -> str:
    """What has run on which GPU, and what has not."""
    found, gpus = ["## What has run where"], [device for device in devices(entries) if device != "cpu"]
    if not gpus:
        found.append(
            "**No kernel of this library has run on a GPU yet**: there is no record of one. Kernels in Triton are\n"
            "tested in its interpreter and those in CUDA C++ thread by thread on a CPU, and all are compiled for\n"
            "sm_80, sm_90 and sm_100; how fast they are is not known. What follows was measured on CPUs.\n"
        )
        return "\n".join(found)
    found += ["| GPU | commit | operator | tests | compute-sanitizer |", "| --- | --- | --- | --- | --- |"]
    for device in gpus:
        here = [entry for entry in newest(entries) if entry.device == device]
        for commit in dict.fromkeys(e.record.get("commit") for e in here):
            broken, dirty = (red(entries, device, commit, [file]) for file in ("tests", "sanitizer"))
            ran = tested(entries, device, commit)
            sanitized = [e.record for e in here if (e.file, e.record.get("commit")) == ("sanitizer", commit)]
            checked = {record["stem"] for record in sanitized if record["gate"] != "absent"}
            for stem in OPERATORS:
                tests = "not run" if stem not in ran else f"red: {broken[stem]}" if stem in broken else "green"
                clean = "not run" if stem not in checked else "red" if stem in dirty else "clean"
                found.append(f"| {_name(here)} | {short(commit)} | `{stem}` | {tests} | {clean} |")
    return "\n".join(found) + "\n"


def _device(entries: Sequence[Entry], device: str) -> str:
    here = [entry for entry in newest(entries) if entry.device == device]
    found = [f"## {_name(here)}"]
    for file, title in titles().items():
        of = [entry for entry in here if entry.file == file]
        if not of:
            continue
        found += [f"### {title}", _conditions(of)]
        if file == "learning":
            found.append(_learning(of))
        elif by_file()[file].row_per_case:
            found.append(_side_by_side(entries, of, file))
        else:
            found += [_alone(entries, entry) for entry in of]
    missing = [title for file, title in titles().items() if not any(entry.file == file for entry in here)]
    if missing:
        found.append(f"Not measured here: {'; '.join(title[0].lower() + title[1:] for title in missing)}.\n")
    return "\n".join(found)


def _name(here: Sequence[Entry]) -> str:
    return "CPU: " * (here[0].device == "cpu") + name_of(here[0].record["environment"])


def _conditions(of: Sequence[Entry]) -> str:
    """Versions, dates and commits of the records that a section shows."""
    records = [entry.record for entry in of]
    dates = sorted({record["utc"][:10] for record in records})
    commits = list(dict.fromkeys(short(record.get("commit")) for record in records))
    torch = sorted({record["environment"]["torch"] for record in records})
    cards = [record["card"] for record in records if record.get("card")]
    driver = f", driver {cards[-1]['driver']}" if cards and "driver" in cards[-1] else ""
    slowed = sum(1 for card in cards if card.get("throttle"))
    notes = f" {slowed} of {len(cards)} records were made while the card throttled." if slowed else ""
    changed = " **The tree had changes that were not committed.**" if any(r.get("dirty") for r in records) else ""
    path = f"../benchmarks/records/{of[0].device}/{of[0].file}.jsonl"
    return (
        f"[Records]({path}) of {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, commit {', '.join(commits)}; "
        f"torch {', '.join(torch)}{driver}.{notes}{changed}\n"
    )


def _side_by_side(entries: Sequence[Entry], of: Sequence[Entry], file: str) -> str:
    """A row for each case: ours, the fastest peer, how many times as fast, of the floor."""
    modes = by_file()[file].modes
    floored = any(floor(entries, entry, modes[0]) for entry in of)
    head = ["case", "images", "dtype", "ours", *modes, *(f"fastest peer, {mode}" for mode in modes), "times as fast"]
    head += ["of the floor"] if floored else []
    rows = []
    for entry in of:
        record = entry.record
        found = {mode: {line.name: line for line in lines(entries, entry, mode)} for mode in modes}
        start = [record["case"], str(record["shape"]["batch"]), record["dtype"].removeprefix("torch.")]
        for name in [line.name for line in found[modes[0]].values() if line.name.startswith("esvit_fast")]:
            mine = [found[mode][name] for mode in modes]
            if mine[0].gate == "absent":
                continue
            row = [*start, name, *(_time(line) for line in mine), *(_fastest(found[mode].values()) for mode in modes)]
            row.append(" / ".join(f"{line.times:.2f}" if line.times else "-" for line in mine))
            row += [" / ".join(f"{line.of_floor:.2f}" if line.of_floor else "-" for line in mine)] if floored else []
            rows.append(row)
    return _table(head, rows)


def _fastest(found: Iterable[Line]) -> str:
    timed = [line for line in found if line.p50 is not None and not ours(line.name)]
    best = min(timed, key=lambda line: line.p50, default=None)
    return f"{milliseconds(best.p50)} ({best.name})" if best else "-"


def _time(line: Line) -> str:
    return f"gate {line.gate}: {line.why}" if line.p50 is None else milliseconds(line.p50)


def _alone(entries: Sequence[Entry], entry: Entry) -> str:
    """A table of a case, with a row for each contestant."""
    record, (mode,) = entry.record, by_file()[entry.file].modes
    shape = ", ".join(f"{key} {_sizes(value)}" for key, value in record["shape"].items())
    passes = "; forward and backward" if mode == "training" else ""
    title = f"`{record['case']}`, {shape}, {record['dtype'].removeprefix('torch.')}{passes}:\n"
    rows = []
    for line in lines(entries, entry, mode):
        row = record["contestants"][line.name]
        if line.p50 is None:
            rows.append([line.name, f"{line.gate}: {line.why}", "", "", ""])
            continue
        resident = f"{row['resident_bytes'] / 2**20:,.0f} MiB" if "resident_bytes" in row else "-"
        spread = f"{milliseconds(line.p20)} to {milliseconds(line.p80)}"
        rows.append(
            [line.name, milliseconds(line.p50), spread, f"{row['peak_bytes'] / 2**20:,.0f} MiB", resident],
        )
    notes = "".join(f"\n{name}: {row['note']}.\n" for name, row in record["contestants"].items() if "note" in row)
    return title + "\n" + _table(["", "time", "20 to 80 %", "allocated", "resident"], rows) + notes


def _sizes(value: object) -> str:
    """A list with equal neighbours counted, or how many there are of each: 2 x 224 + 8 x 96."""
    if isinstance(value, dict):
        return " + ".join(f"{count} x {size}" for size, count in value.items())
    if not isinstance(value, list):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return " + ".join(f"{value.count(size)} x {size}" for size in dict.fromkeys(value))


def _learning(of: Sequence[Entry]) -> str:
    rows = []
    for record in (entry.record for entry in of):
        numbers = [f"{record['knn'][when]['top1']:.1f} %" for when in ("pixels", "before", "after")]
        numbers += [f"{record['linear'][when]:.1f} %" for when in ("before", "after") if when in record["linear"]]
        name = f"`{record['recipe']}`, {'views alone' if record['view_only'] else 'views and regions'}"
        rows.append([name, str(record["seed"]), *numbers, f"{record['train_seconds'] / 60:.0f} min", record["gate"]])
    head = ["recipe", "seed", "20-NN of pixels", "untrained", "trained", "linear untrained", "trained", "time", "gate"]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*text, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"

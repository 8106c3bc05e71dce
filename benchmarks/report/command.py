"""docs/performance.md from committed records alone: `python -m benchmarks.report write`, `check` or `add DIR`.

`check` says whether the page is that of the records; `add` takes the records of a battery's folder into the repository
and writes the page; `report DIR` writes report.html and report.png of the records there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring.checkout import RECORDS, ROOT
from benchmarks.measuring.lines import append_line
from benchmarks.report import html
from benchmarks.report.page import page
from benchmarks.report.reading import read

PAGE = ROOT / "docs" / "performance.md"


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


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the page, add records, or write a report."""
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
        print(*html.write(read(inside if inside.exists() else RECORDS), args.folder), sep="\n")
        return 0
    text = page(read())
    if args.action == "check":
        same = PAGE.exists() and PAGE.read_text() == text
        print("the page is that of the records" if same else f"{PAGE.name} is not: python -m benchmarks.report write")
        return int(not same)
    PAGE.write_text(text)
    return 0

"""Records: what was measured, when, at which commit and on what; a line each in records/<device>/<file>.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

from benchmarks.measuring import gpu
from benchmarks.measuring.checkout import RECORDS, commit, git
from benchmarks.measuring.gpu import on_gpu
from benchmarks.measuring.lines import append_line, read_lines
from esvit_fast.runs.environment import environment

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


def record(like: Mapping, rows: Mapping[str, dict], rounds: int, device: str, **more: object) -> dict:
    """The record of a contest: what tells it from others, its rows, and where they come from."""
    return {**like, "rounds": rounds, **more, "contestants": dict(rows), **provenance(device)}


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

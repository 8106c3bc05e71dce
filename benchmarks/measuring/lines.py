"""Files of JSON lines that survive being cut short. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


def read_lines(path: Path) -> list[dict]:
    """The lines of a file that are whole; a run may have been cut short within one."""
    whole = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            whole.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return whole


def append_line(path: Path, fields: Mapping) -> None:
    """Add a line to a file, for good before anything else happens."""
    with open(path, "ab+") as lines:
        if lines.tell():
            lines.seek(-1, os.SEEK_END)
        whole = lines.read(1) in (b"", b"\n")  # or a run was cut short within its line
        lines.write((b"" if whole else b"\n") + json.dumps(fields).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())

"""metrics.jsonl: valid JSON always, torn lines, atomic truncation on resume, whole lines from several writers."""

from __future__ import annotations

import fcntl
import json
import math
import os
import resource
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from esvit_fast.runs.checkpoint import CheckpointError
from esvit_fast.runs.metrics import MetricsLog, read_metrics, truncate_after


def strict(text: str) -> dict:
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def filled(path, steps: int) -> bytes:
    with MetricsLog(path) as log:
        for step in range(1, steps + 1):
            log.write({"kind": "train", "step": step, "loss": 1 / step})
    return path.read_bytes()


def test_a_record_is_on_disk_as_strict_json_before_write_returns(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(
            {"step": 1, "loss": math.nan, "norm": -math.inf, "top": [1.5, math.inf], "k": {"20": math.nan}, "on": True}
        )
        first = strict(path.read_text())
        log.write(
            {
                "step": np.int64(2),
                "loss": torch.tensor(0.5),
                "norm": torch.tensor(math.nan),
                "x": np.float32(0.25),
                "n": None,
            }
        )
    assert first == {"step": 1, "loss": None, "norm": None, "top": [1.5, None], "k": {"20": None}, "on": True}
    assert [strict(line) for line in path.read_text().splitlines()][1] == {
        "step": 2,
        "loss": 0.5,
        "norm": None,
        "x": 0.25,
        "n": None,
    }
    assert read_metrics(path)[0] == first
    log.close()
    with pytest.raises(ValueError, match="is closed"):
        log.write({"step": 3})


def test_floats_come_back_exactly(tmp_path):
    values = [0.1, 1e-300, 5e-324, 1.7976931348623157e308, -0.0, 123456789.123456789]
    with MetricsLog(tmp_path / "m") as log:
        log.write({"values": values})
    assert read_metrics(tmp_path / "m")[0]["values"] == values


def test_reading_leaves_out_a_torn_last_line_at_every_length(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = filled(path, 3)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert [r["step"] for r in read_metrics(path)] == list(range(1, sum(end <= length for end in ends) + 1))


def test_opening_removes_a_torn_last_line_so_that_the_next_record_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = filled(path, 3)
    path.write_bytes(whole[:-5])
    with MetricsLog(path) as log:
        log.write({"step": 9})
    assert [r["step"] for r in read_metrics(path)] == [1, 2, 9]


def test_a_damaged_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for bad in (b'{"step": 2', b"[1]", b"", b"\xff\xfe"):
        path.write_bytes(b'{"step": 1}\n' + bad + b'\n{"step": 3}\n')
        for call in (read_metrics, lambda p: truncate_after(p, 1)):
            with pytest.raises(ValueError, match=r"metrics\.jsonl.*line 2 is not a JSON object"):
                call(path)


def test_truncation_keeps_the_bytes_of_earlier_records(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"kind": "knn", "step":  0}\n{"note": "no step"}\n' + filled(path, 5)
    path.write_bytes(whole + b'{"step": 2, "lo')
    truncate_after(path, 5)
    assert path.read_bytes() == whole
    truncate_after(path, 3)
    assert path.read_bytes() == b"".join(line + b"\n" for line in whole.split(b"\n")[:5])
    with MetricsLog(path) as log:
        log.write({"step": 4})
    assert [r.get("step") for r in read_metrics(path)] == [0, None, 1, 2, 3, 4]
    truncate_after(path, -1)
    assert path.read_bytes() == b'{"note": "no step"}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncating_a_missing_file_does_nothing(tmp_path):
    truncate_after(tmp_path / "metrics.jsonl", 3)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_whole_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = filled(path, 5)
    log = MetricsLog(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    try:
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl.*took 10 of"):
            log.write({"step": 6, "loss": 0.123456789})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl"):
            truncate_after(path, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == whole
    log.write({"step": 6})
    log.close()
    assert read_metrics(path)[-1] == {"step": 6}


def test_while_a_file_is_written_nobody_else_opens_it(tmp_path, monkeypatch):
    path, write = tmp_path / "metrics.jsonl", os.write
    found = []

    def watched(descriptor, line):
        with path.open("rb") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found.append(line)
        return write(descriptor, line)

    monkeypatch.setattr(os, "write", watched)
    with MetricsLog(path) as log:
        log.write({"step": 1})
        with path.open("rb") as other:  # again free
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert found == [b'{"step": 1}\n']


@pytest.mark.parametrize("module", [None, SimpleNamespace(LOCK_EX=2, LOCK_UN=8, flock=Mock(side_effect=OSError(37)))])
def test_where_files_cannot_be_locked_it_is_written_all_the_same(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "fcntl", module)  # None: cannot be imported
    assert filled(tmp_path / "metrics.jsonl", 2).count(b"\n") == 2
    assert module is None or module.flock.call_count == 6


WRITER = """
import sys
from pathlib import Path
from esvit_fast.runs.metrics import MetricsLog
log = MetricsLog(Path(sys.argv[1]))
for step in range(400):
    log.write({"kind": sys.argv[2], "step": step, "text": sys.argv[2] * 500})
"""


def test_lines_of_two_processes_never_mix(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), kind]) for kind in ("train", "knn")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    records = read_metrics(path)
    for kind in ("train", "knn"):
        assert [r["step"] for r in records if r["kind"] == kind] == list(range(400))
    assert all(r["text"] == r["kind"] * 500 for r in records)

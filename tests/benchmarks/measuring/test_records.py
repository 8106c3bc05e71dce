"""How records stand in files."""

from __future__ import annotations

import json

from benchmarks.measuring.lines import read_lines
from benchmarks.measuring.records import append


def test_records_stand_on_lines_of_their_own(tmp_path):
    record = {"op": "x", "environment": {"device": "cpu"}}
    file = append(record, "x", tmp_path)
    with open(file, "a") as lines:
        lines.write('{"op": "cut')
    append(record, "x", tmp_path)
    assert file.read_text().splitlines() == [json.dumps(record), '{"op": "cut', json.dumps(record)]
    assert read_lines(file) == [record, record]

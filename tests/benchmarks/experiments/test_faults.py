"""Kills of a run under torchrun: it trains on, loses little, and ends as one that nobody killed."""

import pytest

from benchmarks.experiments.faults import INTERVAL, Watch, measure, table


@pytest.mark.slow
def test_five_kills(tmp_path):
    # seconds are for the benchmark to judge, on a machine that does nothing else
    record = measure(5, 2, seed=0, seconds=120, folder=tmp_path)
    assert record["gate"] == "pass" and record["equal"]
    assert sum(record["victims"].values()) == 5 <= record["kills"]
    assert 0 < record["seconds"]["p50"] <= record["seconds"]["max"]
    assert 0 <= record["lost_steps"]["max"] <= INTERVAL
    assert "gate pass: 5 kills" in table(record)


def test_a_watch_sees_lines_that_are_new(tmp_path):
    file, line = tmp_path / "metrics.jsonl", '{"step": 1}\n'
    watch = Watch(tmp_path)
    assert not watch.went_on()
    file.write_text("")
    assert not watch.went_on()
    file.write_text(line)
    assert watch.went_on()
    watch = Watch(tmp_path)
    with file.open("a") as log:
        log.write(line)  # of a rank that has not yet ended
    assert not watch.went_on()
    (tmp_path / "new").write_text(line)
    (tmp_path / "new").replace(file)
    assert not watch.went_on()
    with file.open("a") as log:
        log.write(line)
    assert watch.went_on()

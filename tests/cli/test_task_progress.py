"""Progress of long tasks: lines in a log, a bar on a terminal."""

import io

import pytest
from rich.console import Console

from esvit_fast.cli import task_progress as module
from esvit_fast.cli.task_progress import task_progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_for_every_part_and_now_and_then(clock):
    out = io.StringIO()
    with task_progress(Console(file=out, width=20), seconds=10) as tell:
        for done in range(1, 26):
            tell("features [of] a long part", done, 1_000)
            clock[0] += 1
        tell("probe", 0, 5)
        for done in range(1, 6):
            tell("probe", done, 5)
        tell("probe", 5, 5)
        tell("pictures", 1, 1)
    assert out.getvalue().splitlines() == [
        "features [of] a long part: 1 of 1,000",
        "features [of] a long part: 11 of 1,000",
        "features [of] a long part: 21 of 1,000",
        "probe: 0 of 5",
        "probe: 5 of 5",
        "pictures: 1 of 1",
    ]


def test_a_terminal_gets_a_bar_that_goes_away():
    out = io.StringIO()
    with task_progress(Console(file=out, force_terminal=True, width=80)) as tell:
        tell("features", 3, 8)
        tell("probe", 1, 5)
    assert "probe" in out.getvalue() and "1/5" in out.getvalue()
    assert out.getvalue().rstrip("\x1b[?25h").endswith("\x1b[2K")  # the line is erased

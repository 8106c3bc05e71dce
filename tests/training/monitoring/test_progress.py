"""Progress: a slow first step is no silence, slow speeds have digits, and both reporters say what precision it is."""

import io
import time

import pytest
from rich.console import Console

from esvit_fast.training import Trainer
from esvit_fast.training.monitoring.progress import BarReporter, LineReporter, summary

from ..runs import CPU, small


def record(speed: float) -> dict:
    return {"images_per_s": speed, "data_wait_share": 0.25, "loss": 2.5, "teacher_entropy": 1.5}


@pytest.mark.parametrize(
    ("speed", "told"), [(0.2137, "0.21 images/s"), (3.25, "3.2 images/s"), (43.2, "43 images/s"), (1234.5, "1,234 im")]
)
def test_a_speed_has_the_digits_that_matter(speed, told):
    assert summary(record(speed)).startswith(told)


def test_lines_while_the_first_step_lasts_and_none_later(capsys):
    reporter = LineReporter(seconds=0.05)
    reporter.start(Trainer(small(), 48, CPU))
    time.sleep(0.5)
    reporter.step(1, record(0.5))
    err = capsys.readouterr().err
    assert "in fp32" in err.splitlines()[0]
    waited = [line for line in err.splitlines() if "step 1/12  under way for " in line]
    assert 2 <= len(waited) <= 6  # ever more rarely
    assert err.splitlines()[-1].startswith("step 1/12  0.5 images/s")
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
    reporter.step(2, None)
    assert "step 2/12  " in capsys.readouterr().err  # no record, but it has been a while
    reporter.stop()


def test_the_time_of_k_nn_is_none_of_steps(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    reporter = LineReporter()
    reporter.start(Trainer(small(), 48, CPU))

    def after(seconds):
        now[0] += seconds

    accuracy = {"queries": 8, "bank": 8, "epoch": 0.0, "k": 1, "top1": 50.0}
    after(1000)
    reporter.knn(accuracy)
    after(20)
    reporter.step(1, None)
    after(1000)
    reporter.knn(accuracy)
    after(40)
    reporter.step(2, None)
    assert [line for line in capsys.readouterr().err.splitlines() if "a step" in line][-1] == "step 2/12  30 s a step"
    reporter.stop()


def test_a_run_that_stops_at_once_leaves_no_thread_that_speaks(capsys):
    reporter = LineReporter(seconds=0.05)
    reporter.start(Trainer(small(), 48, CPU))
    reporter.stop()
    capsys.readouterr()
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_the_bar_shows_time_during_the_first_step():
    screen = io.StringIO()
    reporter = BarReporter(Console(file=screen, force_terminal=True, width=150))
    reporter.start(Trainer(small(), 48, CPU))
    time.sleep(1.3)
    reporter.step(1, None)
    reporter.stop()
    shown = screen.getvalue()
    assert "the first step is under way" in shown and "0:00:01" in shown
    assert "under way" not in shown.splitlines()[-1]

"""One run, one writer: who is refused, and who is not held up by what others left."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading

import pytest

from esvit_fast.runs import lock as locks
from esvit_fast.runs.lock import LOCK, Busy, check_no_writer, only_writer
from esvit_fast.training import pretrain, resume

from ..training.runs import CPU, Silent, small, start
from .test_checkpoint import files_no_larger_than

HOLDER = """
import os, sys, time
from pathlib import Path
import torch
from esvit_fast.parallel.ranks import Ranks
from esvit_fast.runs.lock import only_writer
with only_writer(Path(sys.argv[1]), Ranks(0, 1, torch.device("cpu"))):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that writes to a folder, with a child as a loader's worker is."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    yield process
    process.kill()
    os.kill(child, signal.SIGKILL)  # which holds the pipe, too
    process.communicate()


def test_who_comes_second_is_told_who_is_there_until_that_is_killed(tmp_path, holder):
    told = (
        rf"a run is going on here \(pid {holder.pid} on {platform.node()}, since 20..-..-.. ..:..:..\); wait for it, "
    )
    for look in (lambda: check_no_writer(tmp_path, CPU), lambda: only_writer(tmp_path, CPU).__enter__()):
        with pytest.raises(Busy, match=told):
            look()
    holder.kill()
    holder.wait()
    check_no_writer(tmp_path, CPU)  # although its child lives
    with only_writer(tmp_path, CPU):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_just_ending_is_waited_for(tmp_path):
    first = only_writer(tmp_path, CPU)
    first.__enter__()
    ending = threading.Timer(0.3, first.__exit__, (None, None, None))
    ending.start()
    with only_writer(tmp_path, CPU):
        ending.join()
        assert (tmp_path / LOCK).exists()


def test_one_that_is_just_ending_is_waited_for_by_who_looks_too(tmp_path):
    first = only_writer(tmp_path, CPU)
    first.__enter__()
    ending = threading.Timer(0.3, first.__exit__, (None, None, None))
    ending.start()
    check_no_writer(tmp_path, CPU)
    assert ending.finished.is_set() and not (tmp_path / LOCK).exists()


def test_the_lock_of_another_is_not_removed(tmp_path):
    first, second = only_writer(tmp_path, CPU), only_writer(tmp_path, CPU)
    first.__enter__()
    (tmp_path / LOCK).unlink()  # as with the folder, which somebody made anew
    second.__enter__()
    first.__exit__(None, None, None)
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    second.__exit__(None, None, None)
    assert not (tmp_path / LOCK).exists()


def test_many_that_look_at_once_see_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)
    (tmp_path / LOCK).write_text("{}")  # what a killed one left
    looker = os.open(tmp_path / LOCK, os.O_RDONLY)
    assert locks.lock_file(looker, "LOCK_SH", "LOCK_NB")
    check_no_writer(tmp_path, CPU)
    os.close(looker)


def test_a_process_that_is_gone_is_not_named(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)
    owner = {"pid": 2**22 + 1, "host": platform.node(), "born": "1", "since": 1e9}
    (tmp_path / LOCK).write_text(json.dumps(owner))
    held = os.open(tmp_path / LOCK, os.O_RDWR)
    assert locks.lock_file(held, "LOCK_EX", "LOCK_NB")
    with pytest.raises(Busy, match="a run is going on here; wait for it, stop it, or choose another folder$"):
        check_no_writer(tmp_path, CPU)
    os.close(held)


def test_neither_pretrain_nor_resume_joins_a_run_that_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)
    run, refused = tmp_path / "run", []

    class Crowded(Silent):
        def step(self, step, record):
            for call in (lambda: pretrain(small(epochs=0.5), run, CPU, Silent()), lambda: resume(run, CPU, Silent())):
                with pytest.raises(Busy) as raised:
                    call()
                refused.append(str(raised.value))

    assert pretrain(small(epochs=0.5), run, CPU, Crowded()).step == 3
    assert len(refused) == 6 and all(f"a run is going on here (pid {os.getpid()} on " in line for line in refused)
    assert not (run / LOCK).exists()
    assert resume(run, CPU, Silent()).step == 3


@pytest.mark.parametrize(
    ("change", "live"),
    [
        ({}, True),
        ({"born": "1"}, False),  # the number was given to another process
        ({"pid": 2**22 + 1}, False),
        ({"host": "elsewhere"}, True),
        ({"host": "elsewhere", "pid": 2**22 + 1}, True),
    ],
)
def test_where_files_cannot_be_locked_their_content_decides(tmp_path, monkeypatch, change, live):
    monkeypatch.setattr(locks, "lock_file", lambda *_: None)
    monkeypatch.setattr(locks, "_PATIENCE", 0.0)
    owner = {"pid": os.getpid(), "host": platform.node(), "born": locks._born(os.getpid()), "since": 1e9} | change
    (tmp_path / LOCK).write_text(json.dumps(owner))
    if live:
        away = "host" in change
        with pytest.raises(Busy, match="; if that process has ended, remove run.lock" if away else "another folder$"):
            only_writer(tmp_path, CPU).__enter__()
    else:
        with only_writer(tmp_path, CPU):
            assert json.loads((tmp_path / LOCK).read_text())["since"] > 1e9
        assert not (tmp_path / LOCK).exists()


def test_a_full_disk_is_said(tmp_path):
    with files_no_larger_than(3), pytest.raises(ValueError, match=r"run\.lock' could not be written: .*; make room on"):
        only_writer(tmp_path, CPU).__enter__()
    with only_writer(tmp_path, CPU):
        pass


def test_half_a_file_is_no_obstacle(tmp_path):
    (tmp_path / LOCK).write_text('{"pid": 1')
    with only_writer(tmp_path, CPU):
        pass
    start(tmp_path, small(epochs=0.5))

"""Signals: the first is answered at once, the second ends the process whatever it waits for."""

import os
import signal
import subprocess
import sys
import time

import pytest

from esvit_fast.training.stopping import StopRequest

WAITING = """
import sys, threading
import torch, torch.distributed as dist
from esvit_fast.training.stopping import StopRequest
store = dist.HashStore()
with StopRequest(lambda: 12):
    print("waiting", flush=True)
    # as in a collective operation, the main thread is where no handler of Python's is run
    store.get("what nobody sets")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_another_answers_and_ends(number):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WAITING], **pipes) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        assert process.stderr.readline() == "stopping after this step; again to stop now, losing 12 steps\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        assert process.stderr.read() == ""


@pytest.mark.parametrize(("steps", "lost"), [(0, "nothing but this step"), (1, "1 step"), (2000, "2,000 steps")])
def test_the_answer_tells_what_is_lost(capsys, steps, lost):
    with StopRequest(lambda: steps) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)
    assert stop.signal == signal.SIGTERM and stop.agreed()
    assert capsys.readouterr().err == f"stopping after this step; again to stop now, losing {lost}\n"


def test_others_say_nothing_and_all_is_as_it_was(capsys):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
    assert stop.signal == signal.SIGINT and capsys.readouterr().err == ""
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_child_is_not_heard(capsys):
    with StopRequest(lambda: 0) as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.2)
    assert stop.signal is None and capsys.readouterr().err == ""

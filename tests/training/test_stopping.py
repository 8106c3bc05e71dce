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
        time.sleep(1.1)  # no longer the same request
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        assert process.stderr.read() == ""


SAVING = """
import time
from contextlib import suppress
from datetime import timedelta
import torch.distributed as dist
from esvit_fast.training.stopping import StopRequest
store = dist.HashStore()
store.set_timeout(timedelta(seconds=0.7))
with StopRequest() as stop:
    print("at work", flush=True)
    if {waits}:
        with suppress(dist.DistError):
            store.get("what nobody sets")
    else:
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            pass
    print("saved after", stop.signal, flush=True)
"""


@pytest.mark.parametrize("waits", [False, True], ids=["in Python", "in a C operation"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_same_signal_twice_at_once_still_saves(number, waits):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", SAVING.format(waits=waits)], **pipes) as process:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(number)
        time.sleep(0.02)
        process.send_signal(number)
        assert process.communicate(timeout=20) == (f"saved after {number.value}\n", "")
        assert process.returncode == 0


def test_a_second_interrupt_is_one_and_leaves_all_in_order():
    program = "\n".join(
        (
            "import time",
            "from esvit_fast.training.stopping import StopRequest",
            "try:",
            "    with StopRequest():",
            "        print('at work', flush=True)",
            "        while True: time.sleep(0.01)",
            "except KeyboardInterrupt:",
            "    print('in order')",
        )
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGINT)
        time.sleep(1.1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("in order\n", None)
        assert process.returncode == 0


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

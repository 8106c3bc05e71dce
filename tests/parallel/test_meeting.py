"""How ranks find each other: wrong places, ranks that do not come or come twice, launchers that end."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch.distributed as dist

from esvit_fast.parallel import meeting
from esvit_fast.parallel.meeting import Place, meet, place
from esvit_fast.parallel.ranks import setup_distributed


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("RANK", "LOCAL_", "WORLD_", "MASTER_", "TORCHEL"))]:
        monkeypatch.delenv(name)


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def ranks(*places):
    """What each rank says that meets at a place of its own; None if they all meet."""
    said, stores = [None] * len(places), []

    def come(number, here):
        try:
            stores.append(meet(here))
        except (ValueError, dist.DistError) as error:
            said[number] = str(error)

    threads = [threading.Thread(target=come, args=each) for each in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return said


def test_those_that_come_meet():
    port = free_port()
    assert ranks(*(Place(rank, rank, 3, "localhost", port) for rank in (2, 0, 1))) == [None] * 3


def test_one_that_does_not_come_is_named_and_waited_for_no_longer_than_asked(monkeypatch):
    monkeypatch.setenv("ESVIT_FAST_MEETING_SECONDS", "2")
    port, begin = free_port(), time.monotonic()
    said = ranks(*(Place(rank, rank, 4, "localhost", port) for rank in (0, 2)))
    assert time.monotonic() - begin < 10
    for line in said:
        assert line.startswith(
            f"ranks 1, 3 of 4 did not come to MASTER_ADDR=localhost MASTER_PORT={port} within 2 s; see why there"
        )


@pytest.mark.parametrize("number", [0, 1])
def test_two_of_the_same_number(number):
    port = free_port()
    said = ranks(*(Place(rank, 0, 3, "localhost", port) for rank in (0, 1, number)))
    assert all(
        f"RANK={number} is there twice, as pid {os.getpid()} and as pid {os.getpid()} on " in line for line in said
    )


def test_two_that_expect_other_numbers():
    port = free_port()
    said = ranks(Place(0, 0, 2, "localhost", port), Place(1, 1, 3, "localhost", port))
    assert any("WORLD_SIZE=3 on rank 1, but 2 on another one; start every rank once" in line for line in said) or any(
        "WORLD_SIZE=2 on rank 0, but 3 on another one" in line for line in said
    )
    assert None not in said


@pytest.mark.parametrize("rank", [0, 1])
def test_an_address_of_nobody(monkeypatch, rank):
    monkeypatch.setattr(meeting, "_KNOWN", 1.0)
    monkeypatch.setenv("ESVIT_FAST_MEETING_SECONDS", "2")
    (said,) = ranks(Place(rank, rank, 2, "nobody.invalid", 29511))
    assert "MASTER_ADDR=nobody.invalid MASTER_PORT=29511: no machine of that name is known after 2 s (" in said
    assert said.endswith("; correct it, or let ranks wait longer (ESVIT_FAST_MEETING_SECONDS)")
    (said,) = ranks(Place(rank, rank, 2, "127.0.0.7" if rank else "192.0.2.1", free_port()))
    assert "nobody answers there (" in said and "\n" not in said
    assert ("it must lead to the machine of rank 0, which is this one" in said) == (rank == 0)


@pytest.mark.parametrize(
    ("said", "code", "comes"),
    [(True, socket.EAI_NONAME, True), (False, socket.EAI_NONAME, False), (False, socket.EAI_AGAIN, True)],
    ids=["who says so waits for a name", "a wrong name is told soon", "one that cannot be looked up yet is waited for"],
)
def test_a_name_that_is_late(monkeypatch, said, code, comes):
    port, begin = free_port(), time.monotonic()
    connect = socket.create_connection

    def known_late(address, timeout):
        if time.monotonic() < begin + 1.5:
            raise socket.gaierror(code, "not known")
        return connect(("localhost", port), timeout)

    monkeypatch.setattr(socket, "create_connection", known_late)
    monkeypatch.setattr(meeting, "_KNOWN", 0.5)
    if said:
        monkeypatch.setenv("ESVIT_FAST_MEETING_SECONDS", "20")
    answers = ranks(*(Place(rank, rank, 2, "localhost", port) for rank in (0, 1)))
    assert (answers == [None, None]) == comes
    assert comes or "is known after 0.5 s (not known); correct it, or let ranks wait longer (ESVIT_FAST" in answers[1]


def test_a_rank_of_another_node_that_does_not_come_is_waited_for_no_longer_than_asked(monkeypatch):
    port, begin = free_port(), time.monotonic()
    names = {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    names |= {"GROUP_WORLD_SIZE": 2, "ESVIT_FAST_MEETING_SECONDS": 2}
    code = "from esvit_fast.parallel.ranks import setup_distributed; setup_distributed('cpu')"
    environment = os.environ | {name: str(value) for name, value in names.items()}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and time.monotonic() - begin < 50
    told = f"UserError: MASTER_ADDR=localhost MASTER_PORT={port}: not all of 2 ranks came within 2 s, rank 0 did; see "
    assert done.stderr.splitlines()[-1].startswith(f"esvit_fast.errors.{told}")


def test_somebody_who_is_no_rank(monkeypatch):
    monkeypatch.setenv("ESVIT_FAST_MEETING_SECONDS", "2")
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        (said,) = ranks(Place(1, 1, 2, "localhost", other.getsockname()[1]))
    assert "who answers there is no rank of a run; correct it, or choose a free port" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"WORLD_SIZE": "0"}, r"WORLD_SIZE='0' must be a whole number, at least 1; start with torchrun, or correct it"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' must be a whole number, at least 1"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='' must be a whole number"),
        (
            {"WORLD_SIZE": "2", "RANK": "2"},
            "RANK='2' must be .*, at least 0 and at most 1 with WORLD_SIZE=2",
        ),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK='-1' must be a whole number, at least 0"),
        ({"WORLD_SIZE": "2", "RANK": "first"}, "RANK='first' must be a whole number"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK='1' must be a whole number, at least 0 and at most 0"),
        ({"RANK": "1"}, "RANK=1 without WORLD_SIZE; start with torchrun, or unset it"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "x"}, "LOCAL_RANK='x' must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "70000"}, "MASTER_PORT='70000' must be .* at most 65535"),
    ],
)
def test_a_place_that_cannot_be(monkeypatch, given, message):
    usual = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in (usual if "WORLD_SIZE" in given else {} | given).items() | given.items():
        monkeypatch.setenv(name, given.get(name, value))
    with pytest.raises(ValueError, match=message):
        setup_distributed("cpu")


def test_one_process_of_a_launcher_is_alone(monkeypatch):
    assert place() is None
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert place() is None


def test_a_wrong_limit_is_said(monkeypatch):
    for value in ("soon", "0", "inf"):
        monkeypatch.setenv("ESVIT_FAST_MEETING_SECONDS", value)
        with pytest.raises(ValueError, match=f"ESVIT_FAST_MEETING_SECONDS='{value}' must be a number of seconds"):
            meet(Place(0, 0, 2, "localhost", free_port()))


LAUNCHER = """
import os, subprocess, sys
rank = "import os, time; from esvit_fast.parallel.launcher import end_with_launcher as e; e(); "
rank += "os.write(1, bytes([49, 10])); time.sleep(60)"  # print would write its two characters apart
ranks = [subprocess.Popen([sys.executable, "-c", rank], env=os.environ | {"LOCAL_RANK": str(n)}) for n in range(2)]
print(*(rank.pid for rank in ranks), flush=True)
[rank.wait() for rank in ranks]
"""


def launched(path):
    """A process of this name that starts ranks, when they have begun."""
    path.write_text(LAUNCHER)
    environment = os.environ | {"TORCHELASTIC_RUN_ID": "none"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    launcher = subprocess.Popen([sys.executable, path], **pipes)
    pids = list(map(int, launcher.stdout.readline().split()))
    assert [launcher.stdout.readline() for _ in pids] == ["1\n", "1\n"]
    launcher.send_signal(signal.SIGKILL)
    return launcher, pids


def test_ranks_end_with_the_launcher_and_one_says_so(tmp_path):
    launcher, _ = launched(tmp_path / "torchrun")
    _, said = launcher.communicate(timeout=30)  # their ends of the pipes are closed
    told = f"esvit-fast: error: torchrun (pid {launcher.pid}) has ended, and so its ranks do; start it again, "
    assert said == told + "with --resume\n"


def test_who_only_inherits_what_a_launcher_set_goes_on(tmp_path):
    launcher, pids = launched(tmp_path / "script.py")
    launcher.wait()
    time.sleep(1.5)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)  # which fails if it has ended
    assert launcher.communicate(timeout=30)[1] == ""

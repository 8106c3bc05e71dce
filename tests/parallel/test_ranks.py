"""Ranks: a plain process, two gloo processes under torchrun, and every refused device."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from esvit_fast.parallel.ranks import (
    Ranks,
    all_reduce_sum,
    barrier,
    gather,
    is_first_to_say,
    is_loss_of_a_rank,
    pick_device,
    setup_distributed,
    teardown_distributed,
)

RANK = """
import sys
from pathlib import Path
import torch
from esvit_fast.parallel.ranks import all_reduce_sum, barrier, gather, setup_distributed, teardown_distributed
torch.set_num_threads(1)
ranks = setup_distributed("cpu")
total = all_reduce_sum(torch.tensor([1.0 + ranks.rank, 10.0]))
if ranks.is_main:
    Path(sys.argv[1], "before").touch()
items = gather([ranks.rank] * ranks.rank) + gather([])
barrier()
assert Path(sys.argv[1], "before").exists()
found = f"{ranks.world_size} {ranks.device} {ranks.is_main} {total.tolist()} {items}"
Path(sys.argv[1], str(ranks.rank)).write_text(found)
teardown_distributed()
"""


@pytest.fixture(autouse=True)
def no_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def with_gpus(monkeypatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_one_process_needs_no_group(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert setup_distributed() == setup_distributed("cpu") == Ranks(0, 1, torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    tensor = torch.tensor([1.0, 2.0])
    assert all_reduce_sum(tensor) is tensor and tensor.tolist() == [1.0, 2.0]
    assert gather([3]) == [3]
    barrier()
    teardown_distributed()


def test_auto_and_cuda_pick_a_gpu(monkeypatch):
    with_gpus(monkeypatch, 2)
    for name, index in (("auto", 0), ("cuda", 0), ("cuda:1", 1)):
        assert setup_distributed(name).device == torch.device("cuda", index)
    assert pick_device("cuda", 1, shared=True) == torch.device("cuda", 1)
    assert setup_distributed("cpu").device == torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "gpus", "shared", "message"),
    [
        ("cuda", 0, False, "device='cuda' needs an NVIDIA GPU.*; pass cpu"),
        ("cuda:2", 2, False, "device='cuda:2' is not there, this machine has 2 GPUs"),
        ("cuda", 2, True, "device='cuda:3' is not there, this machine has 2 GPUs; lower --nproc-per-node"),
        ("cuda:1", 2, True, "device='cuda:1' names one GPU for several processes; pass cuda"),
        ("tpu", 1, False, "device='tpu' must be auto, cpu, cuda or cuda:N"),
        ("cuda:x", 1, False, "device='cuda:x' must be auto"),
        ("cpu:0", 1, False, "device='cpu:0' must be auto"),
    ],
)
def test_devices_that_cannot_be_are_refused(monkeypatch, device, gpus, shared, message):
    with_gpus(monkeypatch, gpus)
    with pytest.raises(ValueError, match=message):
        pick_device(device, 3 if shared else 0, shared=shared)


def test_two_ranks_sum_and_wait(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(script), str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0").read_text() == "2 cpu True [3.0, 20.0] [1]"
    assert (tmp_path / "1").read_text() == "2 cpu False [3.0, 20.0] [1]"


def meet(folder, store, restarts, delays=(0, 0), nodes=1):
    """Start two ranks as torchrun would, with its store, and let them end."""
    (folder / "rank.py").write_text("import sys, time\ntime.sleep(float(sys.argv[2]))\n" + RANK)
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    common |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "GROUP_WORLD_SIZE": str(nodes)}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(folder / "rank.py"), str(folder), str(delay)],
            env=os.environ | common | {"RANK": str(n), "LOCAL_RANK": str(n), "TORCHELASTIC_RESTART_COUNT": restart},
        )
        for n, (restart, delay) in enumerate(zip(restarts, delays, strict=True))
    ]
    try:
        assert [rank.wait(timeout=60) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()


@pytest.fixture
def store():
    """What torchrun keeps for all restarts."""
    return torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)


def test_a_restart_does_not_meet_the_ranks_before_it(tmp_path, store):
    """A rank that comes early finds in the store where the other one listened before."""
    meet(tmp_path, store, "00")
    meet(tmp_path, store, "11", delays=(0, 2))


def test_nodes_that_count_restarts_differently_meet(tmp_path, store):
    """torchrun counts those of a node's own ranks; a node that joins again, or is replaced, has another count."""
    meet(tmp_path, store, "01", nodes=2)


def test_a_half_given_group_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT; start with torchrun, or"):
        setup_distributed("cpu")


def test_a_port_in_use_is_said_in_one_line(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        given = {"WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0, "MASTER_ADDR": "localhost"}
        for name, value in (given | {"MASTER_PORT": other.getsockname()[1]}).items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(ValueError, match=r"^MASTER_ADDR=localhost MASTER_PORT=\d+: the port is in use; set .*$"):
            setup_distributed("cpu")
    assert not torch.distributed.is_initialized()


def test_what_ends_with_another_rank_is_told_from_other_errors():
    assert is_loss_of_a_rank(RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed"))
    assert not is_loss_of_a_rank(RuntimeError("CUDA out of memory"))


def test_only_the_first_to_say_something_says_it(monkeypatch):
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for restart, message, first in (("0", "a", True), ("0", "a", False), ("0", "b", True), ("1", "a", True)):
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restart)
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        monkeypatch.setenv("MASTER_PORT", str(store.port))
        assert is_first_to_say(message) is first
    assert not is_first_to_say("another rank has ended", after_all=True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert is_first_to_say("another rank has ended", after_all=True)  # who was killed says nothing
    assert not is_first_to_say("the same of a third", after_all=True)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    assert is_first_to_say("a")

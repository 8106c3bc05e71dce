"""A run that is killed at any of its disk calls goes on, and ends with current weights and nothing left over."""

import itertools
import os
import random
import shutil
import signal
import sys

import pytest
import torch

from esvit_fast.models.weights import load_weights
from esvit_fast.runs.checkpoint import load_latest
from esvit_fast.training import pretrain

from .runs import CPU, Silent, in_process, small

CONFIG = small(
    epochs=0.5, warmup_epochs=0.1, freeze_last_layer_epochs=0.1, checkpoint_every_steps=1, keep_checkpoints=1
)
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "shutil.rmtree"}
CALLS = ("fsync", "write", "pwrite", "ftruncate", "close")


def killed_at(number, out, count_file=None):
    """A run that ends itself before a disk call in its folder; with a file, one that counts them."""
    torch.set_num_threads(1)
    calls = itertools.count(1)

    def seen(event, arguments):
        if event in EVENTS and str(out) in str(arguments[0]) and _writes(event, arguments):
            called()

    def called():
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def hooked(call):
        return lambda *arguments, **named: (called(), call(*arguments, **named))[1]

    sys.addaudithook(seen)
    for name in CALLS:
        setattr(os, name, hooked(getattr(os, name)))
    pretrain(CONFIG, out, CPU, Silent(), or_resume=True)
    if count_file is not None:
        count_file.write_text(str(next(calls)))


def _writes(event, arguments):
    flags = arguments[2] if event == "open" else None
    return event != "open" or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def check(out, calm):
    saved, (weights, facts) = load_latest(out / "checkpoints"), load_weights(out / "model.safetensors")
    assert facts["step"] == str(saved.step) == "3"
    for name, tensor in weights.items():
        assert torch.equal(tensor, saved.tensors[f"method.teacher.backbone.{name}"])
    expected = load_latest(calm / "checkpoints").tensors
    assert all(torch.equal(tensor, expected[name]) for name, tensor in saved.tensors.items())
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in calm.iterdir())
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step_3"]


@pytest.mark.slow
def test_kills_at_disk_calls(tmp_path):
    """ESVIT_FAST_DISK_KILLS: how many of all points, drawn at random; 0: every one."""
    process = in_process(killed_at, 0, tmp_path / "calm", tmp_path / "count")
    process.join()
    count = int((tmp_path / "count").read_text()) - 1
    assert count > 100
    most = int(os.environ.get("ESVIT_FAST_DISK_KILLS", "6")) or count
    for number in sorted(random.Random(0).sample(range(1, count), min(most, count - 1))):
        out = tmp_path / f"run{number}"
        process = in_process(killed_at, number, out)
        process.join()
        assert process.exitcode == -signal.SIGKILL, number
        process = in_process(killed_at, 0, out)
        process.join()
        assert process.exitcode == 0, number
        check(out, tmp_path / "calm")
        shutil.rmtree(out)

"""Files that appear whole: what is left after a failure, and the modes that they have."""

import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from esvit_fast.runs.atomic import CheckpointError, remove_unfinished, unfinished, write_atomic

from ..training.runs import go_on, small, start
from .test_checkpoint import files_no_larger_than, names


def test_write_atomic_replaces_bytes_or_what_a_function_writes(tmp_path):
    path = tmp_path / "new" / "config.yaml"
    write_atomic(path, b"a: 1\n")
    write_atomic(path, lambda temp: temp.write_text("a: 2\n"))
    assert path.read_bytes() == b"a: 2\n" and names(path.parent) == ["config.yaml"]

    def fail(temp):
        temp.write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomic(path, fail)
    with files_no_larger_than(10), pytest.raises(CheckpointError, match=r"config\.yaml.*could not be written"):
        write_atomic(path, b"a" * 100)
    assert path.read_bytes() == b"a: 2\n" and names(path.parent) == ["config.yaml"]


def test_only_what_a_run_was_writing_is_removed(tmp_path):
    ours = [unfinished(tmp_path / "config.yaml"), unfinished(tmp_path / "model.safetensors")]
    ours[0].mkdir()
    (ours[0] / "config.yaml").write_text("half")
    ours[1].write_text("half")
    (tmp_path / ".tmp-model.safetensors").write_text("half, by an earlier version")
    theirs = [".tmp-notes", "tmp-config.yaml-01234567", ".tmp-config.yaml-0123456", "config.yaml"]
    for name in theirs:
        (tmp_path / name).write_text("kept")
    remove_unfinished(tmp_path)
    assert names(tmp_path) == sorted(theirs)


@pytest.fixture
def umask():
    """Sets the umask for a test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_of_a_run_have_the_modes_that_the_umask_gives(tmp_path, umask, mask):
    umask(mask)
    write_atomic(tmp_path / "w.safetensors", lambda path: save_file({"a": torch.zeros(3)}, path))
    assert modes(tmp_path) == {"w.safetensors": 0o666 & ~mask}


def test_no_file_of_a_run_is_left_out(tmp_path, umask):
    umask(0o006)
    start(tmp_path / "run", small(epochs=0.5, loggers=("tensorboard",)))
    (tmp_path / "run" / "model.safetensors").chmod(0o600)  # as earlier versions left it
    go_on(tmp_path / "run")
    found = modes(tmp_path / "run")
    assert {"config.yaml", "metrics.jsonl", "model.safetensors", "state.safetensors", "state.json"} <= found.keys()
    folders = {"step_3", "checkpoints", "tensorboard"}
    assert {name: mode for name, mode in found.items() if mode != (0o771 if name in folders else 0o660)} == {}

"""Checkpoints: exact round trips, SIGKILL, refusal of every damaged byte, full disks."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from esvit_fast.models.weights import load_weights
from esvit_fast.runs import checkpoint
from esvit_fast.runs.checkpoint import (
    CheckpointError,
    clean,
    holds_weights,
    load_checkpoint,
    load_latest,
    save_checkpoint,
    save_weights,
)

META = {"seed": 3, "loss": 0.1, "nested": {"epochs": [1, 2.5, None, "é"]}}


def tensors(seed: int) -> dict[str, torch.Tensor]:
    return {
        "weight": torch.randn(20, 30, generator=torch.Generator().manual_seed(seed)),
        "step": torch.tensor(float(seed)),
    }


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@contextmanager
def files_no_larger_than(size: int):
    """A real failing write: the kernel refuses to let any file of this process grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_round_trip_is_exact_for_any_layout_and_dtype(tmp_path):
    base = torch.arange(24.0).reshape(4, 6)
    given = {
        "transposed": base.T,
        "column": base[:, 1],
        "tail": base[2:],
        "same": base,
        "again": base,
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        "scalar": torch.tensor(0.1, dtype=torch.float64),
        "empty": torch.zeros(0, 5),
        "half": torch.tensor([1.5, float("nan"), float("inf")], dtype=torch.bfloat16),
        "bytes": torch.get_rng_state(),
        "count": torch.tensor(2**60),
        "flag": torch.tensor([True, False]),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = save_checkpoint(tmp_path / "checkpoints", 7, given, META, keep=2)
    assert path == tmp_path / "checkpoints" / "step_7"
    assert names(path) == ["manifest.json", "state.json", "state.safetensors"]
    found = load_latest(tmp_path / "checkpoints")
    assert (found.step, found.meta, found.path) == (7, META, path)
    assert found.tensors.keys() == given.keys()
    for name, tensor in given.items():
        assert found.tensors[name].dtype == tensor.dtype
        torch.testing.assert_close(found.tensors[name], tensor.detach().contiguous(), rtol=0, atol=0, equal_nan=True)
    assert not found.tensors["parameter"].requires_grad
    assert load_checkpoint(path).meta == META


def test_a_loaded_tensor_is_private_and_outlives_its_file(tmp_path):
    path = save_checkpoint(tmp_path, 1, tensors(1), {}, keep=1)
    found = load_checkpoint(path)
    found.tensors["weight"].add_(1)
    assert torch.equal(load_checkpoint(path).tensors["weight"], tensors(1)["weight"])
    save_checkpoint(tmp_path, 2, tensors(2), {}, keep=1)
    assert torch.equal(found.tensors["weight"], tensors(1)["weight"] + 1)


def test_keep_counts_by_number_not_by_text(tmp_path):
    for step in (8, 9, 10, 100):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep=2)
    assert names(tmp_path) == ["step_10", "step_100"]
    assert load_latest(tmp_path).step == 100
    assert load_latest(tmp_path / "step_10") is None is load_latest(tmp_path / "missing")
    with pytest.raises(ValueError, match="keep=0"):
        save_checkpoint(tmp_path, 101, tensors(1), {}, keep=0)


def test_stale_leftovers_are_cleaned_and_never_loaded(tmp_path):
    save_checkpoint(tmp_path, 5, tensors(5), {}, keep=2)
    shutil.copytree(tmp_path / "step_5", tmp_path / ".tmp-step_6")
    (tmp_path / ".tmp-step_6" / "manifest.json").unlink()
    (tmp_path / ".tmp-model.safetensors").write_bytes(b"half")
    assert load_latest(tmp_path).step == 5
    save_checkpoint(tmp_path, 7, tensors(7), {}, keep=2)
    assert names(tmp_path) == ["step_5", "step_7"]


def test_saving_a_step_again_replaces_it_and_a_kill_between_its_two_renames_loses_nothing(tmp_path):
    save_checkpoint(tmp_path, 5, tensors(5), {"try": 1}, keep=1)
    save_checkpoint(tmp_path, 5, tensors(6), {"try": 2}, keep=1)
    assert names(tmp_path) == ["step_5"]
    (tmp_path / "step_5").rename(tmp_path / ".old-step_5")
    assert load_latest(tmp_path).meta == {"try": 2}
    save_checkpoint(tmp_path, 5, tensors(5), {"try": 3}, keep=1)
    assert names(tmp_path) == ["step_5"]
    assert load_latest(tmp_path).meta == {"try": 3}


def damage(file: Path, kind: str, offset: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    if kind == "flip":
        data[offset] ^= 1 << bit
    elif kind == "truncate":
        del data[offset:]
    else:
        data += b"\n"
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("kind", ["flip", "truncate"])
def test_every_damaged_byte_is_refused_and_the_previous_checkpoint_is_used(tmp_path, caplog, name, kind):
    save_checkpoint(tmp_path, 1, tensors(1), META, keep=2)
    file = save_checkpoint(tmp_path, 2, tensors(2), META, keep=2) / name
    whole = file.read_bytes()
    generator = random.Random(f"{name} {kind}")
    for _ in range(50):
        caplog.clear()
        damage(file, kind, generator.randrange(len(whole)), generator.randrange(8))
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(file.parent)
        found = load_latest(tmp_path)
        assert found.step == 1 and torch.equal(found.tensors["weight"], tensors(1)["weight"])
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert name in caplog.text and "step_2" in caplog.text
        file.write_bytes(whole)
    assert load_latest(tmp_path).step == 2


def test_the_reason_names_file_and_byte_counts(tmp_path):
    path = save_checkpoint(tmp_path, 3, tensors(3), META, keep=1)
    file = path / "state.safetensors"
    size = file.stat().st_size
    damage(file, "grow", 0, 0)
    with pytest.raises(
        CheckpointError, match=rf"state\.safetensors is truncated or grown: {size + 1} bytes, expected {size}"
    ):
        load_checkpoint(path)
    damage(file, "truncate", 100, 0)
    with pytest.raises(CheckpointError, match=rf"step_3.*state\.safetensors .*100 bytes, expected {size}"):
        load_checkpoint(path)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"state\.safetensors is missing"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"no usable checkpoint.*state\.safetensors is missing"):
        load_latest(tmp_path)


def test_another_format_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, 3, tensors(3), META, keep=1)
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    (path / "manifest.json").write_bytes(checkpoint._manifest(3, files, version=2))
    with pytest.raises(CheckpointError, match="format 2 is unknown"):
        load_checkpoint(path)


def test_a_damaged_later_checkpoint_is_removed_once_an_earlier_step_is_saved_again(tmp_path, caplog):
    for step in (10, 20):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep=2)
    damage(tmp_path / "step_20" / "state.safetensors", "flip", 500, 0)
    save_checkpoint(tmp_path, 15, tensors(15), {}, keep=2)
    assert names(tmp_path) == ["step_10", "step_15"]
    assert "step_20" in caplog.text


def test_a_kill_while_deleting_leaves_no_half_checkpoint_under_its_name(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, tensors(1), {}, keep=1)

    def half(path, ignore_errors=False):
        if path.exists():
            (path / "manifest.json").unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, tensors(2), {}, keep=1)
    monkeypatch.undo()
    assert [name[:11] for name in names(tmp_path)] == [".tmp-step_1", "step_2"]
    assert load_latest(tmp_path).step == 2


def test_a_full_disk_leaves_the_previous_checkpoint_and_nothing_unfinished(tmp_path):
    save_checkpoint(tmp_path, 1, tensors(1), META, keep=1)
    large = {"weight": torch.zeros(1_000_000)}
    with (
        files_no_larger_than(100_000),
        pytest.raises(CheckpointError, match=r"step_2.*could not be written.*disk has room"),
    ):
        save_checkpoint(tmp_path, 2, large, META, keep=1)
    assert names(tmp_path) == ["step_1"]
    assert load_latest(tmp_path).step == 1
    save_checkpoint(tmp_path, 2, large, META, keep=1)
    assert names(tmp_path) == ["step_2"]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_failing_system_call_leaves_the_previous_checkpoint(tmp_path, monkeypatch, call):
    save_checkpoint(tmp_path, 1, tensors(1), META, keep=1)

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "rename": (Path, "rename")}[call], fail)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(tmp_path, 2, tensors(2), META, keep=1)
    monkeypatch.undo()
    assert names(tmp_path) == ["step_1"]
    assert load_latest(tmp_path).step == 1


def test_a_write_that_does_not_verify_keeps_the_old_checkpoints(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, tensors(1), META, keep=1)
    move = checkpoint._move_into_place

    def move_and_corrupt(temp, path):
        move(temp, path)
        damage(path / "state.safetensors", "flip", 300, 1)

    monkeypatch.setattr(checkpoint, "_move_into_place", move_and_corrupt)
    with pytest.raises(CheckpointError, match=r"SHA-256 of state\.safetensors differs"):
        save_checkpoint(tmp_path, 2, tensors(2), META, keep=1)
    assert load_latest(tmp_path).step == 1


def test_meta_that_is_not_json_is_refused_before_anything_is_written(tmp_path):
    for value in (float("nan"), Path("x")):
        with pytest.raises(ValueError, match="meta with keys loss must be plain JSON"):
            save_checkpoint(tmp_path, 1, tensors(1), {"loss": value}, keep=1)
    assert names(tmp_path) == []


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from esvit_fast.runs.checkpoint import load_latest, save_checkpoint

torch.set_num_threads(1)
folder, generator = Path(sys.argv[1]), random.Random(0)

def save_for_ever():
    found = load_latest(folder)
    step = found.step if found else 0
    while True:
        step += 1
        save_checkpoint(folder, step, {"weight": torch.full((1_250_000,), float(step))}, {"step": step}, keep=2)

for _ in range(10):
    child = os.fork()
    if child == 0:
        save_for_ever()
    time.sleep(generator.uniform(0.15, 0.5))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = load_latest(folder)
    assert found is None or (found.meta["step"] == found.step and bool((found.tensors["weight"] == found.step).all()))
    print(found.step if found else 0, flush=True)
"""


def test_sigkill_at_random_moments_never_loses_the_latest(tmp_path):
    command = [sys.executable, "-c", KILLER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "checkpoint=" not in done.stderr, "a damaged checkpoint was reported"
    steps = [int(line) for line in done.stdout.split()]
    assert len(steps) == 10 and steps == sorted(steps) and steps[-1] > 10
    save_checkpoint(tmp_path, steps[-1] + 1, tensors(1), {}, keep=2)
    assert names(tmp_path) == sorted([f"step_{steps[-1]}", f"step_{steps[-1] + 1}"])


def test_what_a_kill_left_is_cleaned_and_what_is_needed_stays(tmp_path):
    save_checkpoint(tmp_path, 5, tensors(5), {}, keep=1)
    shutil.copytree(tmp_path / "step_5", tmp_path / ".old-step_5")
    shutil.copytree(tmp_path / "step_5", tmp_path / ".old-step_6")  # its replacement has not come
    shutil.copytree(tmp_path / "step_5", tmp_path / ".tmp-step_7-0123abcd")
    for step in (3, 4, 9):
        shutil.copytree(tmp_path / "step_5", tmp_path / f"step_{step}")
    clean(tmp_path, 5, keep=2)
    assert names(tmp_path) == [".old-step_6", "step_4", "step_5", "step_9"]


def test_weights_round_trip_and_survive_a_failed_write(tmp_path):
    path = tmp_path / "model.safetensors"
    given = {"a": torch.randn(3, 4).T, "b": torch.tensor(2.0)}
    save_weights(path, given, {"model": "swin_nano_w4", "step": 12})
    with files_no_larger_than(1000), pytest.raises(CheckpointError, match=r"model\.safetensors"):
        save_weights(path, {"a": torch.zeros(10_000)})
    found, meta = load_weights(path)
    assert meta == {"model": "swin_nano_w4", "step": "12"}
    assert found.keys() == given.keys() and all(torch.equal(found[name], given[name]) for name in given)
    assert names(tmp_path) == ["model.safetensors"]


def test_weights_that_are_older_other_damaged_or_missing_are_told(tmp_path):
    path, given, meta = tmp_path / "model.safetensors", tensors(1), {"model": "swin_nano_w4", "step": 12}
    assert not holds_weights(path, given, meta)
    save_weights(path, given, meta)
    assert holds_weights(path, given, meta)
    assert not holds_weights(path, given, meta | {"step": 13})
    assert not holds_weights(path, tensors(2), meta)
    assert not holds_weights(path, given | {"more": torch.zeros(1)}, meta)
    damage(path, "truncate", 60, 0)
    assert not holds_weights(path, given, meta)

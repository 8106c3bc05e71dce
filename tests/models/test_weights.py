"""Weights files: hostile ones are refused in one line, and nothing in them is run."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from esvit_fast.models.weights import load_weights, weights_facts


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_is_refused_unread_with_a_way_out(tmp_path, legacy):
    path = tmp_path / "checkpoint.pth"
    torch.save(
        {"weight": torch.ones(2), "extra": Canary(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(ValueError, match=r"checkpoint\.pth.*pickle.*weights_only=True"):
        load_weights(path)
    assert not (tmp_path / "ran").exists()


def header(entries: dict) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


HOSTILE = {
    "a header of 1 TiB in 10 bytes": struct.pack("<Q", 1 << 40) + b"{}",
    "a header of 50 MB in 10 bytes": struct.pack("<Q", 50_000_000) + b"{}",
    "a tensor of 1 TiB": header({"w": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}),
    "a shape larger than its bytes": header({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}) + bytes(4),
    "a shape whose product overflows": header({"w": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
    "negative offsets": header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}) + bytes(4),
    "overlapping tensors": header(
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in ("a", "b")}
    ) + bytes(4),
    "nothing": b"",
    "text": b"<html>404 not found</html>",
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_weights_are_refused(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors.*is not a whole safetensors file"):
        load_weights(path)


def test_a_truncated_weights_file_is_refused_at_every_length(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.randn(7)}, path, {"a": "b"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            load_weights(path)


def test_a_header_length_that_looks_like_a_pickle_opcode_still_loads(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(1)}, path, {"pad": ""})
    short = struct.unpack("<Q", path.read_bytes()[:8])[0]
    save_file({"w": torch.ones(1)}, path, {"pad": "x" * (0x280 - short)})
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert torch.equal(load_weights(path)[0]["w"], torch.ones(1))


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.safetensors.*cannot be read"):
        load_weights(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(tmp_path)


def test_what_a_file_says_of_its_weights_is_read_without_them(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(1)}, path, {"model": "swin_nano_w4", "step": "3"})
    assert weights_facts(path) == weights_facts(tmp_path) == {"model": "swin_nano_w4", "step": "3"}
    save_file({"w": torch.ones(1)}, path)
    assert weights_facts(path) == {}
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="is a torch pickle, which could run code"):
        weights_facts(path)
    with pytest.raises(ValueError, match="is neither a run directory nor a .safetensors file"):
        weights_facts(tmp_path / "gone.safetensors")

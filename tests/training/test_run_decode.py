"""Runs whose JPEGs a device decodes, for which the CPU stands in here."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from PIL import Image

from esvit_fast.config import load_config
from esvit_fast.data import open_source
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import pretrain, resume
from esvit_fast.training import run as module
from esvit_fast.training.planning import calibration

from ..data.stand_ins import damaged
from .runs import CPU, Silent, small, start, trained_weights, with_data


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Images of 50 files, one of which cannot be read, and a CPU that passes for a device that decodes."""
    for name in (module, calibration):
        monkeypatch.setattr(name, "check_device_decode", lambda device: None)
    source = open_source("sample:50")
    (tmp_path / "images").mkdir()
    for index in range(len(source)):
        Image.fromarray(source.image(index)).save(tmp_path / "images" / f"{index:02}.jpg", quality=95)
    file = tmp_path / "images" / "09.jpg"
    file.write_bytes(damaged(file.read_bytes()))
    return with_data(small(epochs=1, checkpoint_every_steps=2), source=str(tmp_path / "images"), decode="gpu")


def losses(run):
    return [record["loss"] for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "train"]


def test_a_run_is_nearly_that_whose_workers_decode(config, tmp_path):
    for decode in ("gpu", "cpu"):
        start(tmp_path / decode, with_data(config, decode=decode))
    ours, theirs = losses(tmp_path / "gpu"), losses(tmp_path / "cpu")
    assert len(ours) == 6 and ours[:3] == pytest.approx(theirs[:3], rel=1e-3) and ours != theirs
    corrupt = [read_metrics(tmp_path / decode / "metrics.jsonl")[-1]["corrupt_images"] for decode in ("gpu", "cpu")]
    assert corrupt == [1, 1]


def test_it_goes_on_bit_for_bit_with_workers(config, tmp_path):
    class Stopping(Silent):
        def step(self, step, record):
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    start(tmp_path / "whole", config)
    assert pretrain(config, tmp_path / "run", CPU, Stopping()).step == 3
    assert resume(tmp_path / "run", CPU, Silent(), with_data(config, workers=1)).step == 6
    whole, run = (trained_weights(tmp_path / name) for name in ("whole", "run"))
    assert all(torch.equal(whole[name], run[name]) for name in whole)


def test_a_run_may_go_on_with_the_other_decoder(config, tmp_path):
    start(tmp_path / "run", config)
    assert resume(tmp_path / "run", CPU, Silent(), with_data(config, decode="cpu")).step == 6
    assert load_config(tmp_path / "run" / "config.yaml").data.decode == "cpu"


def test_a_cpu_is_refused_before_anything_is_written(config, tmp_path, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(
        ValueError, match=r"data.decode=gpu needs an NVIDIA GPU, but the run is on cpu; pass --data.decode"
    ):
        start(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="data.decode=gpu needs an NVIDIA GPU"):
        calibration.loader_rate(config, open_source(config.data.source), CPU.device)


def test_the_rate_of_a_loader_is_that_of_its_crops(config, monkeypatch):
    source, seen = open_source(config.data.source), []
    monkeypatch.setattr(
        "esvit_fast.data.loading.device_decode.DeviceDecoder.__call__", lambda _, b, device: seen.append(device)
    )
    assert calibration.loader_rate(config, source, CPU.device, seconds=0.01) > 0
    assert len(seen) >= 3 and set(seen) == {CPU.device}

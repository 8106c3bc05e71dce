"""A run small enough for tests, and ways to start it."""

import math
import multiprocessing
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from PIL import Image

from esvit_fast.config import Config, CropConfig, DataConfig, EvalConfig, ModelConfig, TrainConfig
from esvit_fast.data import Batch, make_loader, open_source
from esvit_fast.methods import EsViT
from esvit_fast.methods.esvit_settings import EsViTSettings
from esvit_fast.runs.checkpoint import load_latest
from esvit_fast.training import Outcome, Ranks, Trainer, pretrain, resume, setup_distributed, teardown_distributed

CPU = Ranks(0, 1, torch.device("cpu"))


def small(**train) -> Config:
    """Six steps an epoch on 50 drawn images; every kind of randomness is on."""
    settings = {
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 3e-2,
        "warmup_epochs": 0.5,
        "freeze_last_layer_epochs": 0.5,
        "checkpoint_every_steps": 3,
        "log_every_steps": 1,
        "precision": "fp32",
    }
    return Config(
        model=ModelConfig("swin_nano_w4", drop_path_rate=0.1),
        method=EsViTSettings(out_dim=16, head_hidden_dim=16, head_bottleneck_dim=8, teacher_momentum=0.9),
        data=DataConfig("sample:50", workers=0, crops=CropConfig(16, (0.4, 1.0), (8,), (2,), (0.1, 0.4))),
        train=TrainConfig(**(settings | train)),
        eval=EvalConfig(knn_bank=32, knn_queries=16),
    )


class Silent:
    """A reporter that remembers."""

    def __init__(self):
        self.records, self.accuracies, self.warnings, self.started, self.stopped = [], [], [], None, False

    def start(self, trainer):
        self.started = trainer.step

    def step(self, step, record):
        self.records.append(record)

    def knn(self, record):
        self.accuracies.append(record)

    def warning(self, record):
        self.warnings.append(record)

    def stop(self):
        self.stopped = True


def start(out: Path, config: Config) -> Outcome:
    return pretrain(config, out, CPU, Silent())


def go_on(out: Path) -> Outcome:
    return resume(out, CPU, Silent())


@contextmanager
def read_late() -> Iterator[None]:
    """Let trainers decide on the device and read a step late, as those on a GPU do."""
    made = Trainer.__init__

    def init(self, *args, **kwargs):
        made(self, *args, **kwargs)
        self.lag = 1

    with patch.object(Trainer, "__init__", init):
        yield


def in_process(function, *args) -> multiprocessing.Process:
    """Start a function in a fresh process that has torch imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    process = context.Process(target=function, args=args)
    process.start()
    return process


def on_ranks(count: int, out: Path, config: Config, run=None) -> list[multiprocessing.Process]:
    """Start a run, or go on with it, in as many processes as torchrun would start."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    return [in_process(run or as_rank, rank, count, port, out, config) for rank in range(count)]


def as_rank(rank: int, count: int, port: int, out: Path, config: Config) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    pretrain(config, out, setup_distributed("cpu"), Silent(), or_resume=True)
    teardown_distributed()


def batches(count: int) -> list[Batch]:
    """The first batches of `small`."""
    source, data = open_source("sample:50"), small().data
    return list(make_loader(source, data, batch_size=8, seed=0, start_samples=0, total_samples=8 * count))


def folder_of_images(folder: Path, count: int = 40, torn: Iterable[int] = ()) -> str:
    """A new folder of files 000.png and so on, of which some end early."""
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (20, 20), (6 * i % 256, 100, 90)).save(folder / f"{i:03}.png")
    for i in torn:
        (folder / f"{i:03}.png").write_bytes((folder / f"{i:03}.png").read_bytes()[:60])
    return str(folder)


def nan_loss(monkeypatch) -> None:
    """Let the loss of every step be NaN from now on."""
    forward = EsViT.forward

    def broken(*args):
        loss, statistics = forward(*args)
        return loss * math.nan, statistics

    monkeypatch.setattr(EsViT, "forward", broken)


def broken_after(step: int, monkeypatch) -> None:
    """Let weights of trainers become NaN after so many steps."""
    train_step = Trainer.train_step

    def breaking(self, batches):
        if self.step == step:
            with torch.no_grad():
                self.method.student.backbone.norm.weight.fill_(math.nan)
        return train_step(self, batches)

    monkeypatch.setattr(Trainer, "train_step", breaking)


def with_data(config: Config, **data) -> Config:
    return replace(config, data=replace(config.data, **data))


def trained_weights(run: Path) -> dict[str, torch.Tensor]:
    """The method's tensors of a run's last checkpoint, without the bias of keys.

    It adds the same to all scores of a query, so its gradient is zero but for rounding, of which AdamW makes steps of
    full size: it cannot be compared between runs that round differently.
    """
    tensors = {k: v for k, v in load_latest(run / "checkpoints").tensors.items() if k.startswith("method.")}
    for name in [name for name in tensors if name.endswith("attn.qkv.bias")]:
        query, _, value = tensors[name].chunk(3)
        tensors[name] = torch.cat([query, value])
    return tensors

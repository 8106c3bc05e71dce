"""In what ranks may differ: each is refused on all of them, with the difference, before the first step."""

import random
import re
from dataclasses import replace
from functools import partial

import pytest
import torch

from esvit_fast.config import CropConfig
from esvit_fast.data import fingerprint, open_source
from esvit_fast.runs.checkpoint import load_latest, save_checkpoint
from esvit_fast.training import Ranks, agreement, pretrain, setup_distributed, teardown_distributed
from esvit_fast.training.agreement import agree_on_checkpoint, agree_on_images, agree_on_settings

from .runs import Silent, folder_of_images, on_ranks, small, with_data


@pytest.fixture
def second(monkeypatch):
    """Runs a function as rank 0, beside a rank 1 that calls another one."""

    def run(ours, theirs):
        sent = []

        def answering(items):  # what rank 1 sends in its place
            return [*items, *sent.pop(0)]

        def recording(items):
            sent.append(items)
            return [*items, *items]

        monkeypatch.setattr(agreement, "gather", recording)
        theirs()
        monkeypatch.setattr(agreement, "gather", answering)
        with pytest.raises(ValueError) as raised:
            ours()
        return str(raised.value)

    return run


def changed(**parts):
    config = small()
    for room, settings in parts.items():
        config = replace(config, **{room: replace(getattr(config, room), **settings)})
    return config


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (changed(train={"seed": 1}), "train.seed=1 instead of 0"),
        (changed(train={"learning_rate": 0.1}), "train.learning_rate=0.1 instead of 0.03"),
        (changed(train={"batch_size": 16}), "train.batch_size=16 instead of 8"),
        (
            changed(train={"epochs": 3, "precision": "bf16"}),
            "train.epochs=3 instead of 2, train.precision=bf16",
        ),
        (changed(train={"micro_batch_size": 4}), "train.micro_batch_size=4 instead of 0"),
        (changed(train={"checkpoint_every_steps": 4}), "train.checkpoint_every_steps=4 instead of 3"),
        (changed(model={"name": "swin_tiny_w7"}), "model.name=swin_tiny_w7 instead of swin_nano_w4"),
        (changed(method={"out_dim": 32}), "method.out_dim=32 instead of 16"),
        (changed(data={"crops": CropConfig(16, (0.4, 1.0), (8,), (3,), (0.1, 0.4))}), "data.crops.local_counts=(3,)"),
    ],
)
def test_other_settings(second, tmp_path, config, told):
    said = second(
        lambda: agree_on_settings("pretrain", tmp_path, small()),
        lambda: agree_on_settings("pretrain", tmp_path, config),
    )
    assert said.startswith(f"rank 1 was started with {told}") and said.endswith(" on rank 0; start all ranks alike")


def test_another_command_folder_or_version(second, tmp_path, monkeypatch):
    def call(command, out, version="1"):
        monkeypatch.setattr(agreement, "__version__", version)
        agree_on_settings(command, out, small())

    assert "command=resume instead of pretrain" in second(
        lambda: call("pretrain", tmp_path), lambda: call("resume", tmp_path)
    )
    assert f"out={tmp_path / 'b'} instead of" in second(
        lambda: call("resume", tmp_path), lambda: call("resume", tmp_path / "b")
    )
    assert "esvit_fast=2 instead of 1" in second(
        lambda: call("resume", tmp_path), lambda: call("resume", tmp_path, version="2")
    )


def test_where_and_how_a_machine_reads_may_differ(second, tmp_path):
    config = with_data(changed(train={"device": "cpu"}), source="elsewhere", workers=3)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        second(
            lambda: agree_on_settings("resume", tmp_path, small()),
            lambda: agree_on_settings("resume", tmp_path, config),
        )


def images(folder, count=12, **changes):
    source = folder_of_images(folder, count)
    for name, change in changes.items():
        change(folder / f"{name[1:]}.png")
    return open_source(source)


@pytest.mark.parametrize(
    ("count", "changes", "told"),
    [
        (11, {}, "12 images on rank 0, 11 on rank 1; those from number 11 on are missing, '011.png' first"),
        (13, {}, "12 images on rank 0, 13 on rank 1; those from number 12 on are new, '012.png' first"),
        (
            12,
            {"_003": lambda path: path.rename(path.with_name("003b.png"))},
            "the first that differs is number 3, '003.png' on rank 0, '003b.png' on rank 1",
        ),
        (
            12,
            {"_007": lambda path: path.write_bytes(path.with_name("006.png").read_bytes())},
            "rank 1 reads other bytes of image 7, '",
        ),
    ],
)
def test_other_images(monkeypatch, tmp_path, count, changes, told):
    ours, theirs = images(tmp_path / "a"), images(tmp_path / "b", count, **changes)
    found, order = fingerprint(theirs), random.Random(0).sample(range(12), 12)
    same = found["sha256"] == fingerprint(ours)["sha256"]
    sent = [found["sha256"], agreement._contents(theirs, order) if same else found]
    monkeypatch.setattr(agreement, "gather", lambda items: [*items, sent.pop(0)])
    with pytest.raises(ValueError, match=re.escape(told)):
        agree_on_images(ours, fingerprint(ours), Ranks(0, 2, torch.device("cpu")))


def test_another_checkpoint(second, tmp_path):
    for name, step, value in (("a", 3, 0.0), ("b", 3, 1.0), ("c", 6, 0.0)):
        save_checkpoint(tmp_path / name, step, {"w": torch.full((3,), value)}, {}, keep=1)
    a, b, c = (load_latest(tmp_path / name) for name in "abc")
    told = [
        (b, "rank 1 another one of step 3 and rank 0 step 3"),
        (c, "rank 1 step 6 and rank 0"),
        (None, "step 0 and"),
    ]
    for other, said in told:
        assert said in second(lambda: agree_on_checkpoint(a, tmp_path), partial(agree_on_checkpoint, other, tmp_path))


def differently(rank, count, port, out, config):
    import os

    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    config = replace(config, train=replace(config.train, seed=rank))
    try:
        pretrain(config, out, setup_distributed("cpu"), Silent())
    except ValueError as error:
        (out.parent / str(rank)).write_text(str(error))
    teardown_distributed()


def test_both_ranks_say_it_and_nothing_is_written(tmp_path):
    for process in on_ranks(2, tmp_path / "run", small(), differently):
        process.join(60)
        assert process.exitcode == 0
    told = [(tmp_path / str(rank)).read_text() for rank in range(2)]
    assert told == ["rank 1 was started with train.seed=1 instead of 0 on rank 0; start all ranks alike"] * 2
    assert not (tmp_path / "run").exists()

"""What the disk and the data do to a run: a disk that is full, and images that cannot be read."""

import resource

import pytest
import torch

from esvit_fast.cli.main import main
from esvit_fast.config import save_config
from esvit_fast.data import TooManyCorrupt
from esvit_fast.runs.checkpoint import CheckpointError, load_latest
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import pretrain, resume

from .runs import CPU, Silent, folder_of_images, go_on, small, start, with_data


class FullDisk(Silent):
    """From a step on, no file of a run becomes larger than it may."""

    def __init__(self, step, size):
        super().__init__()
        self.at, self.size = step, size

    def step(self, step, record):
        if step == self.at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def room_again():
    """A function that makes room; afterwards there is room in any case."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (100_000, r"checkpoint='.*step_6' could not be written: .*; check that the disk has room and is writable"),
        (2_000, r"path='.*metrics\.jsonl' could not be written: .*; make room on the disk, then resume"),
    ],
)
def test_a_full_disk_stops_the_run_and_loses_no_checkpoint(tmp_path, room_again, size, message):
    start(tmp_path / "whole", small(epochs=1))
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match=message) as raised:
        pretrain(small(epochs=1), run, CPU, FullDisk(4, size))
    room_again()
    assert "\n" not in str(raised.value)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_3"]
    assert [record["step"] for record in read_metrics(run / "metrics.jsonl")][:3] == [1, 2, 3]
    assert go_on(run).step == 6
    whole, again = (load_latest(path / "checkpoints").tensors for path in (tmp_path / "whole", run))
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_corrupt_images_are_counted_in_every_record_and_over_resumes(tmp_path):
    source = folder_of_images(tmp_path / "images", 40, torn=(3, 17))
    config = with_data(small(epochs=2), source=source, max_corrupt_share=0.05)
    start(tmp_path / "whole", config)
    records = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    counts = [record["corrupt_images"] for record in records]
    assert counts == sorted(counts) and counts[-1] == 2 and counts[0] < 2
    assert load_latest(tmp_path / "whole" / "checkpoints").meta["corrupt"] == [3, 17]
    strict = with_data(config, max_corrupt_share=0.04)
    with pytest.raises(TooManyCorrupt, match=r"exceeded: 2 of 40 images cannot be read, the last is .*\.png; "):
        start(tmp_path / "strict", strict)
    saved = load_latest(tmp_path / "strict" / "checkpoints")
    assert 0 < saved.step < 10
    assert resume(tmp_path / "strict", CPU, Silent(), config).step == 10
    assert [r["corrupt_images"] for r in read_metrics(tmp_path / "strict" / "metrics.jsonl")] == counts


def test_five_percent_of_corrupt_files(tmp_path, caplog, capsys):
    torn = (7, 21, 22, 50, 88)
    save_config(small(epochs=2), tmp_path / "recipe.yaml")
    source = folder_of_images(tmp_path / "images", 100, torn)
    command = ["pretrain", "--recipe", str(tmp_path / "recipe.yaml"), "--data", source]
    assert main([*command, "--out", str(tmp_path / "on"), "--data.max-corrupt-share", "0.05"]) == 0
    said = [message for message in caplog.messages if message.startswith("unreadable image replaced: ")]
    assert sorted(int(message.split(": ")[1][-7:-4]) for message in said) == list(torn)
    assert read_metrics(tmp_path / "on" / "metrics.jsonl")[-1]["corrupt_images"] == 5
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "stops"), "--data.max-corrupt-share", "0.04"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "esvit-fast: error: --data.max-corrupt-share=0.04 is exceeded: 5 of 100 images cannot be read"
    )
    assert load_latest(tmp_path / "stops" / "checkpoints").step > 0

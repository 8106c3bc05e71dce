"""The same images, views and weights for any number of workers and ranks, and after kills."""

import hashlib
import shutil
import time

import pytest
import torch

from esvit_fast.data import Augmenter, make_loader, open_source
from esvit_fast.runs.checkpoint import load_latest
from esvit_fast.runs.metrics import read_metrics

from .runs import go_on, on_ranks, small, start, trained_weights, with_data

STEPS = 20


def seen(workers, world_size, accumulation_steps=1, start_samples=0):
    """For every image of every step: which it is, and a hash of its augmented views."""
    config, found = with_data(small(), workers=workers), {}
    augment, train = Augmenter(config.data.augment, config.data.crops.sizes), config.train
    for rank in range(world_size):
        loader = make_loader(
            open_source(config.data.source, "train"),
            config.data,
            batch_size=train.batch_size,
            seed=train.seed,
            start_samples=start_samples,
            total_samples=STEPS * train.batch_size,
            rank=rank,
            world_size=world_size,
            accumulation_steps=accumulation_steps,
        )
        for number, batch in enumerate(loader):
            step, accumulated = divmod(number, accumulation_steps)
            views, count = augment(batch, torch.device("cpu")), len(batch.index)
            for row, index in enumerate(batch.index.tolist()):
                position = start_samples + step * train.batch_size + (accumulated * world_size + rank) * count + row
                pixels = b"".join(view[row].numpy().tobytes() for view in views)
                found[position] = (index, hashlib.sha256(pixels).hexdigest())
    return found


@pytest.fixture(scope="module")
def plain():
    found = seen(workers=0, world_size=1)
    assert len(found) == STEPS * 8 and len(set(found.values())) == len(found)
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of four workers on fewer cores
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_workers_and_ranks_change_no_image_and_no_view(plain, workers, world_size):
    assert seen(workers, world_size) == plain


@pytest.mark.parametrize(("world_size", "accumulation_steps"), [(1, 1), (2, 2), (4, 1)])
def test_going_on_with_other_ranks_changes_no_image_and_no_view(plain, world_size, accumulation_steps):
    begin = 7 * 8  # within the second epoch
    rest = {position: what for position, what in plain.items() if position >= begin}
    assert seen(2, world_size, accumulation_steps, begin) == rest


# of a size at which rounding does not grow: AdamW makes full steps of gradients that are all rounding
CONFIG = small(epochs=STEPS / 6, learning_rate=5e-3)


def finish(run, ranks):
    processes = on_ranks(ranks, run, CONFIG)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * ranks
    assert load_latest(run / "checkpoints").step == STEPS


def kill_after(run, ranks, step):
    """Start or go on, and kill all ranks once a step has been taken."""
    processes = on_ranks(ranks, run, CONFIG)
    log, deadline = run / "metrics.jsonl", time.monotonic() + 120
    while not log.exists() or not any(record["step"] >= step for record in read_metrics(log)):
        assert time.monotonic() < deadline and all(process.exitcode is None for process in processes)
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()


def tensors(run):
    return load_latest(run / "checkpoints").tensors


@pytest.mark.slow
def test_weights_after_kills_and_on_other_numbers_of_ranks(tmp_path):
    one, two, killed, moved = (tmp_path / name for name in ("one", "two", "killed", "moved"))
    start(one, CONFIG)
    finish(two, 2)
    kill_after(killed, 2, step=8)
    shutil.copytree(killed, moved)
    finish(killed, 2)
    assert 6 <= load_latest(moved / "checkpoints").step < STEPS
    go_on(moved)
    assert tensors(two).keys() == tensors(killed).keys()
    assert all(torch.equal(tensor, tensors(killed)[name]) for name, tensor in tensors(two).items())
    for other in (two, moved):
        weights = trained_weights(other)
        for name, tensor in trained_weights(one).items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        losses = [
            [record["loss"] for record in read_metrics(run / "metrics.jsonl") if record["kind"] == "train"]
            for run in (one, other)
        ]
        assert len(losses[0]) == STEPS and losses[1] == pytest.approx(losses[0], rel=1e-4)

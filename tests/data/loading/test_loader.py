from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from esvit_fast.config import CropConfig, DataConfig
from esvit_fast.data import (
    Augmenter,
    CorruptionLog,
    MultiCrop,
    TooManyCorrupt,
    make_loader,
    open_source,
    steps_per_epoch,
    uniforms,
)
from esvit_fast.data.loading.loader import worker_count
from esvit_fast.data.views.draws import AUGMENT, CROP, epoch_order, replacements

from ..stand_ins import ArraySource, pixels, write_images

CONFIG = DataConfig(workers=0, crops=CropConfig(global_size=12, local_sizes=(8,), local_counts=(2,)))


def load(source, start=0, total=40, batch_size=8, seed=0, workers=0, **ranks):
    config = dataclasses.replace(CONFIG, workers=workers)
    return list(
        make_loader(source, config, batch_size=batch_size, seed=seed, start_samples=start, total_samples=total, **ranks)
    )


def same(a, b):
    return (
        all(torch.equal(x, y) for x, y in zip(a.crops, b.crops, strict=True))
        and torch.equal(a.draws, b.draws)
        and torch.equal(a.index, b.index)
        and a.failures == b.failures
    )


def join(batches):
    return (
        [torch.cat(parts, dim=1) for parts in zip(*(b.crops for b in batches), strict=True)],
        torch.cat([b.draws for b in batches], dim=1),
        torch.cat([b.index for b in batches]),
    )


def test_batch_holds_what_its_counters_say():
    source = ArraySource(19)
    batches = load(source, seed=5)
    assert len(batches) == 5
    crop = MultiCrop(CONFIG.crops)
    for g, batch in enumerate(batches):
        epoch, position = divmod(g, 19 // 8)
        order = epoch_order(5, epoch, 19)[position * 8 : position * 8 + 8]
        assert batch.index.tolist() == order.tolist() and batch.failures == []
        assert [tuple(c.shape) for c in batch.crops] == [(2, 8, 3, 12, 12), (2, 8, 3, 8, 8)]
        assert batch.draws.dtype == torch.float32 and batch.draws.shape == (4, 8, 11)
        for row, index in enumerate(order.tolist()):
            u = uniforms(5, epoch, index, 4)
            for got, expected in zip(batch.crops, crop(pixels(index), u[:, CROP]), strict=True):
                assert torch.equal(got[:, row], expected)
            np.testing.assert_allclose(batch.draws[:, row].numpy(), u[:, AUGMENT], atol=1e-7)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_workers_change_nothing():
    source = ArraySource(20, broken=frozenset({3, 11}))
    alone, augment = load(source), Augmenter(CONFIG.augment, CONFIG.crops.sizes)
    views = [augment(batch, "cpu") for batch in alone]
    for workers in (1, 2, 4):
        batches = load(source, workers=workers)
        assert all(same(a, b) for a, b in zip(alone, batches, strict=True))
        for batch, expected in zip(batches, views, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(augment(batch, "cpu"), expected, strict=True))


def test_resume_continues_mid_epoch():
    source = ArraySource(20)
    whole = load(source, total=48)
    for start in (8, 16, 40):
        rest = load(source, start=start, total=48)
        assert len(rest) == (48 - start) // 8
        assert all(same(a, b) for a, b in zip(whole[start // 8 :], rest, strict=True))
    assert load(source, start=48, total=48) == []


@pytest.mark.parametrize(("world_size", "accumulation_steps"), [(2, 1), (1, 4), (2, 2), (4, 2)])
def test_ranks_and_accumulation_share_the_global_batches(world_size, accumulation_steps):
    source = ArraySource(20)
    parts = [
        load(source, rank=rank, world_size=world_size, accumulation_steps=accumulation_steps)
        for rank in range(world_size)
    ]
    for g, whole in enumerate(load(source)):
        micro = slice(g * accumulation_steps, (g + 1) * accumulation_steps)
        pieces = [piece for step in zip(*(part[micro] for part in parts), strict=True) for piece in step]
        crops, draws, index = join(pieces)
        assert torch.equal(index, whole.index) and torch.equal(draws, whole.draws)
        assert all(torch.equal(a, b) for a, b in zip(crops, whole.crops, strict=True))


def test_every_epoch_shows_each_image_at_most_once_and_drops_the_rest():
    batches = load(ArraySource(19), total=16 * 4)
    seen = torch.cat([b.index for b in batches]).view(4, 16)
    assert all(len(set(row.tolist())) == 16 for row in seen)
    assert len({tuple(row.tolist()) for row in seen}) == 4


def test_crops_of_an_image_differ_between_epochs():
    first, second = load(ArraySource(8), total=16)
    a, b = first.index.argsort(), second.index.argsort()
    assert not any(torch.equal(first.crops[0][:, i], second.crops[0][:, j]) for i, j in zip(a, b, strict=True))


def test_lengths():
    config = dataclasses.replace(CONFIG)
    loader = make_loader(
        ArraySource(20), config, batch_size=8, seed=0, start_samples=8, total_samples=41, accumulation_steps=2
    )
    assert len(loader) == len(list(loader)) == 10
    assert [b.index.tolist() for b in loader] == [b.index.tolist() for b in loader]
    assert steps_per_epoch(20, 8) == 2


@pytest.mark.parametrize(("blocks", "count"), [(10**6, 3), (15, 1), (0, 3), (4, 0)])
def test_by_itself_it_takes_no_more_workers_than_there_is_shared_memory_for(monkeypatch, caplog, blocks, count):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    disk = SimpleNamespace(f_bavail=blocks or 1, f_frsize=1024, f_blocks=blocks)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    lengths = {"batch_size": 4, "seed": 0, "start_samples": 0, "total_samples": 8}  # a batch: 5,760 bytes
    loader = make_loader(ArraySource(8), dataclasses.replace(CONFIG, workers=-1), **lengths)
    assert loader.loader.num_workers == count
    said = f"data.workers=-1 is {count} instead of 3: there is shared memory for no more; give it more"
    assert (said in caplog.text) == (count < 3)
    if count < 3:
        with pytest.raises(ValueError, match=r"data\.workers=3 needs "):
            make_loader(ArraySource(8), dataclasses.replace(CONFIG, workers=3), **lengths)


def test_global_random_state_is_not_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load(ArraySource(8), total=8)
    assert torch.equal(torch.get_rng_state(), before)


def test_errors_name_numbers_and_remedy():
    with pytest.raises(
        ValueError, match=r"batch_size=32 is larger than the data, which has 20 images; pass .* at most 20"
    ):
        load(ArraySource(20), batch_size=32)
    with pytest.raises(
        ValueError, match=r"batch_size=10 is not divisible by world_size=2 x accumulation_steps=2; pass 8 or 12"
    ):
        load(ArraySource(20), batch_size=10, world_size=2, accumulation_steps=2)
    with pytest.raises(ValueError, match=r"batch_size=2 is not .* pass 4$"):
        load(ArraySource(20), batch_size=2, world_size=4)
    with pytest.raises(ValueError, match=r"start_samples=4 is not a multiple of batch_size=8; resume"):
        load(ArraySource(20), start=4)


def test_corrupt_images_are_replaced_deterministically():
    broken = frozenset({2, 5, 6})
    source = ArraySource(16, broken)
    batches = load(source, total=64)
    rows = 0
    for g, batch in enumerate(batches):
        epoch, position = divmod(g, 2)
        expected, failures = [], []
        for index in epoch_order(0, epoch, 16)[position * 8 :][:8].tolist():
            walk = iter([index, *replacements(0, epoch, index, 16, 20)])
            for candidate in walk:
                if candidate not in broken:
                    break
                failures.append((candidate, f"{candidate}.png", "is damaged"))
            expected.append(candidate)
        assert batch.index.tolist() == expected and batch.failures == failures
        rows += len(failures)
    assert rows >= 4 * len(broken)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_stops_with_one_line(workers):
    with pytest.raises(TooManyCorrupt, match=r"data.source='arrays': 64 images in a row cannot be read") as caught:
        load(ArraySource(16, frozenset(range(16))), workers=workers)
    assert "\n" not in str(caught.value)


def test_corruption_log(caplog):
    log = CorruptionLog(200, 0.01)
    with caplog.at_level(logging.WARNING):
        log.record([(1, "a.jpg", "is empty"), (1, "a.jpg", "is empty")])
        log.record([(1, "a.jpg", "is empty"), (2, "b.jpg", "is cut")])
        log.record([])
    assert [r.getMessage() for r in caplog.records] == [
        "unreadable image replaced: a.jpg: is empty",
        "unreadable image replaced: b.jpg: is cut",
    ]
    with pytest.raises(TooManyCorrupt, match=r"data.max_corrupt_share=0.01 is exceeded: 3 of 200 .* c.jpg; .*raise"):
        log.record([(3, "c.jpg", "is cut")])


def test_one_bad_image_of_few_is_tolerated():
    log = CorruptionLog(10, 0.01)
    log.record([(1, "a", "x")])
    with pytest.raises(TooManyCorrupt):
        log.record([(2, "b", "x")])
    with pytest.raises(TooManyCorrupt, match="max_corrupt_share=0 is exceeded: 1 of 10 images"):
        CorruptionLog(10, 0.0).record([(1, "a", "x")])


def test_loader_over_files_with_spawned_workers(tmp_path, monkeypatch):
    """What a source pickles is enough to read it in a fresh process."""
    write_images(tmp_path, [f"{c}/{i}.png" for c in "ab" for i in range(6)])
    (tmp_path / "a" / "3.png").write_bytes(b"<html>")
    source = open_source(str(tmp_path))
    expected = load(source, batch_size=4, total=12)
    import multiprocessing

    import torch.utils.data as data

    from esvit_fast.data.loading import loader as module

    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(module, "DataLoader", lambda *a, **k: data.DataLoader(*a, **k, multiprocessing_context=context))
    assert all(same(a, b) for a, b in zip(expected, load(source, batch_size=4, total=12, workers=1), strict=True))
    failed = [f for b in expected for f in b.failures]
    assert {(index, path.endswith("a/3.png")) for index, path, _ in failed} == {(3, True)}


def test_worker_count(monkeypatch):
    assert worker_count(3) == 3 and worker_count(0) == 0
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(32)))
    assert worker_count(-1) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert worker_count(-1) == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    assert worker_count(-1) == 0


ORPHAN = """
import os, signal
from multiprocessing import active_children
from esvit_fast.config import CropConfig, DataConfig
from esvit_fast.data import make_loader, open_source
config = DataConfig("sample:50", workers=1, crops=CropConfig(16, local_sizes=(), local_counts=()))
source = open_source(config.source, "train")
batches = iter(make_loader(source, config, batch_size=8, seed=0, start_samples=0, total_samples=800))
next(batches)
print(*(child.pid for child in active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers look for their parent every five seconds")
def test_workers_end_with_a_killed_process():
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    end = time.monotonic() + 2
    while Path(f"/proc/{int(done.stdout)}").exists():
        assert time.monotonic() < end
        time.sleep(0.01)

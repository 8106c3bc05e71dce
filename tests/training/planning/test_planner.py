"""Plans: what fits, what would, and how long it takes."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from esvit_fast.config import validate
from esvit_fast.data import open_source
from esvit_fast.parallel.ranks import least_images
from esvit_fast.training import Ranks, Trainer
from esvit_fast.training.planning.calibration import Calibration, calibrate, loader_rate
from esvit_fast.training.planning.dry_step import dry_step, noise
from esvit_fast.training.planning.planner import OVERHEAD, _remedies, around_tensors, largest_batch, plan_run

from ..runs import CPU, small


@pytest.mark.parametrize("room", [0, 99, 100, 250, 999, 1000, 5003, 123_456])
@pytest.mark.parametrize("start", [1, 7, 64])
def test_the_largest_batch_is_found_with_few_trials(room, start):
    tried = []

    def peak(images):
        tried.append(images)
        return max(100, 40 + 30 * images, 7 * images * 5 + 3)

    expected = max((n for n in range(10_000) if n and peak(n) <= room), default=0)
    tried.clear()
    assert largest_batch(peak, room, start) == expected
    assert len(set(tried)) <= 16


def test_at_least_so_many():
    assert largest_batch(lambda n: n, 1.5, 8, least=2) == 0
    assert largest_batch(lambda n: n, 2.5, 8, least=2) == 2


def times(*seconds: float, images=(1, 2), update=0.5) -> Calibration:
    return Calibration(images, seconds, update, 0, ())


def test_seconds_of_a_step():
    known = times(2.0, 3.0)
    assert known.step_seconds(1) == 2.5  # as measured
    assert known.step_seconds(10) == 3.0 + 8 + 0.5  # a second for each further image
    assert known.step_seconds(2, 4) == 4 * 3.0 + 0.5  # the update is one
    assert times(4.0, images=(2,)).step_seconds(6) == 12.5
    # noise makes no image free, nor dearer than all together
    assert times(3.0, 2.0).step_seconds(4) == 2.0 + 2 * 0.5 + 0.5
    assert times(1.0, 4.0).step_seconds(4) == 8.5


def test_what_is_around_tensors():
    config = small()
    few, many = (dry_step(config, images, CPU).peak for images in (2, 256))
    known = replace(times(1.0, 1.0, images=(2, 256)), grown=(1000 + round(1.1 * few), 1000 + round(1.1 * many)))
    fixed, overhead = around_tensors(config, known, CPU)
    assert overhead == pytest.approx(1.1, rel=1e-3)
    assert fixed == pytest.approx(1000, abs=1000)
    assert around_tensors(config, times(1.0, 1.0), CPU) == (0, OVERHEAD)
    for reused in (0, many // 2):  # by a process that had freed as much before
        assert around_tensors(config, replace(known, grown=(0, reused)), CPU) == (0, OVERHEAD)
    assert around_tensors(config, replace(known, grown=(few, round(0.95 * many))), CPU) == (0, 1.0)


def test_a_real_calibration():
    config = small()
    said = []
    found = calibrate(config, 8, CPU, budget=600.0, say=said.append)
    assert len(said) == 4 and said[0].startswith("a step of 1 image takes ") and " 8 images " in said[3]
    assert found.images == (1, 2, 4, 8)
    assert all(seconds > 0 for seconds in (*found.seconds, found.update))
    assert len(found.grown) in (0, 4)
    source = open_source(config.data.source, "train")
    assert loader_rate(config, source, CPU.device, seconds=0.1) > 0


def test_a_budget_ends_a_calibration_after_one_step():
    taken = []
    step = Trainer.train_step

    def count(self, batches):
        taken.append(1)
        return step(self, batches)

    with patch.object(Trainer, "train_step", count):
        found = calibrate(small(), 8, CPU, budget=0.0)
    assert len(taken) == 1 and found.images == (1,) and found.seconds[0] > 0


@pytest.mark.slow
def test_a_plan_with_everything():
    config = small()
    found = plan_run(config, CPU, open_source(config.data.source, "train"), limit=2**34)
    assert found.images == 8
    assert found.memory.peak >= found.step.peak
    assert found.memory.largest > 8
    assert found.remedy is None
    assert found.time.steps == 12
    assert found.time.total == pytest.approx(12 * 8 / found.time.run)
    assert found.time.run < found.time.network
    assert found.time.limit in ("network", "loader")
    assert found.disk == 3 * found.step.checkpoint + 2 * found.step.model


@pytest.mark.slow
def test_accumulation_is_the_first_remedy():
    config = small(batch_size=64)
    least, most = (dry_step(config, images, CPU).peak for images in (8, 64))
    found = plan_run(config, CPU, limit=int(OVERHEAD * (least + most) / 2), measure=False)
    assert found.time is None
    assert 8 <= found.memory.largest < 64
    name, steps = found.remedy.split()
    assert name == "--train.accumulation-steps"
    steps = int(steps)
    assert dry_step(small(batch_size=64, accumulation_steps=steps), 64 // steps, CPU).peak <= (least + most) / 2


def test_further_remedies_come_on_top():
    config = small(batch_size=2)
    config = replace(config, method=replace(config.method, out_dim=16384))
    alone, again = "--train.accumulation-steps 2", "--train.accumulation-steps 2 --model.checkpoint-stages"
    bf16 = f"{again} 0 1 2 --train.precision bf16"
    fewer = f"{bf16} --data.crops.local-counts 1"
    assert [way.flags for way in _remedies(config, CPU, 0)] == [
        *(alone, f"{again} 0", f"{again} 0 1", f"{again} 0 1 2", bf16, fewer),
        *(f"{fewer} --method.out-dim 8192", f"{fewer} --method.out-dim 4096"),
    ]


def test_remedies_keep_to_what_was_chosen():
    config = small(batch_size=24, micro_batch_size=6)
    config = replace(config, model=replace(config.model, checkpoint_stages=(1,)))
    ways = list(_remedies(config, Ranks(0, 2, CPU.device), 2))
    assert [(way.flags, way.images) for way in ways[:4]] == [
        ("--train.micro-batch-size 2", 2),
        ("--train.micro-batch-size 1", 1),
        ("--train.micro-batch-size 1 --model.checkpoint-stages 0 1", 1),
        ("--train.micro-batch-size 1 --model.checkpoint-stages 0 1 2", 1),
    ]
    assert all(validate(way.config) for way in ways)
    assert ways[4].flags == f"{ways[3].flags} --train.shard" and ways[4].config.train.shard
    config = small(batch_size=24, accumulation_steps=3)
    assert next(iter(_remedies(config, Ranks(0, 2, CPU.device), 2))).flags == "--train.accumulation-steps 6"


def test_micro_batches_are_those_of_a_rank():
    found = plan_run(small(batch_size=24, micro_batch_size=6), Ranks(0, 2, CPU.device), limit=2**40, measure=False)
    assert found.images == 6
    assert found.step == dry_step(small(batch_size=24, accumulation_steps=2), 6, Ranks(0, 2, CPU.device))


@pytest.mark.parametrize("local", [(2,), ()])
def test_one_image_trains_heads_with_batch_norm(local):
    config = small(batch_size=1, warmup_epochs=0.0)
    crops = replace(config.data.crops, local_sizes=(8,)[: len(local)], local_counts=local)
    method = replace(config.method, head_batch_norm=True)
    config = replace(config, method=method, data=replace(config.data, crops=crops))
    assert least_images(config) == 1
    trainer = Trainer(config, 48, CPU)
    weight = trainer.method.student.head.mlp[0].weight
    before = weight.detach().clone()
    assert trainer.train_step([noise(config, 1)]).taken
    assert weight.isfinite().all() and not torch.equal(before, weight)


def test_nothing_helps():
    found = plan_run(small(), CPU, limit=2**10, measure=False)
    assert found.remedy == ""
    assert found.memory.largest == 0


def test_ranks_must_divide_the_batch():
    with pytest.raises(
        ValueError, match="batch_size=8 is not divisible by world_size=3 .* pass --train.batch-size 6 or 9"
    ):
        plan_run(small(), Ranks(0, 3, CPU.device), measure=False)

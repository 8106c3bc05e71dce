"""Weights divided among ranks: the numbers and the files of one process that holds them whole."""

import shutil
from dataclasses import replace

import pytest
import torch

from esvit_fast.config import ConfigError, from_tree, to_tree, validate
from esvit_fast.runs.checkpoint import load_latest
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import Ranks
from esvit_fast.training.planning.dry_step import dry_step
from esvit_fast.training.step.trainer import build_backbone

from ..training.runs import CPU, as_rank, go_on, on_ranks, read_late, small, start, trained_weights

# of a size at which rounding does not grow: AdamW makes full steps of gradients that are all rounding
CONFIG = small(learning_rate=5e-3, epochs=1, shard=True)
CONFIG = replace(CONFIG, eval=replace(CONFIG.eval, knn_every_epochs=0.5))


def finish(run, config=CONFIG, rank=as_rank):
    processes = on_ranks(2, run, config, rank)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]


def back_to_step_3(run):
    shutil.rmtree(run / "checkpoints" / "step_6")


@pytest.mark.slow
def test_as_one_process_with_the_whole_batch_and_back(tmp_path):
    one, two, moved, back = (tmp_path / name for name in ("one", "two", "moved", "back"))
    start(one, CONFIG)  # one rank has nobody to share with
    finish(two)
    shutil.copytree(two, moved), shutil.copytree(one, back)
    back_to_step_3(moved), back_to_step_3(back)
    go_on(moved), finish(back)
    whole = trained_weights(one)
    for run in (two, moved, back):
        for ours, theirs in zip(*(read_metrics(r / "metrics.jsonl") for r in (run, one)), strict=True):
            for name in {"loss", "update_ratio", "center_norm", "top1", "top5"} & theirs.keys():
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4), (run, name)
        weights = trained_weights(run)
        assert weights.keys() == whole.keys()
        for name, tensor in whole.items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    moments = [load_latest(run / "checkpoints").tensors for run in (one, two)]
    assert moments[0].keys() == moments[1].keys() and all(a.shape == moments[1][k].shape for k, a in moments[0].items())


def late_rank(*args):
    with read_late():
        as_rank(*args)


@pytest.mark.slow
@pytest.mark.parametrize("clip_by", ["tensor", "global"])
def test_accumulated_and_decided_on_the_device(tmp_path, clip_by):
    train = {"accumulation_steps": 2, "clip_by": clip_by, "clip_grad": 1.0}
    config = replace(CONFIG, train=replace(CONFIG.train, **train))
    finish(tmp_path / "two", config, late_rank)
    start(tmp_path / "one", config)
    whole, divided = (trained_weights(tmp_path / name) for name in ("one", "two"))
    for name, tensor in whole.items():
        torch.testing.assert_close(divided[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_plan_counts_own_parts_and_what_is_at_work():
    whole, divided = (dry_step(small(shard=shard), 4, Ranks(0, 8, CPU.device)) for shard in (False, True))
    assert divided.parts["optimizer"] == pytest.approx(whole.parts["optimizer"] / 8, rel=0.1)
    assert all(divided.parts[kind] < 1.1 * whole.parts[kind] for kind in ("weights", "teacher", "gradients"))
    assert divided.parts["activations"] == whole.parts["activations"] and divided.peak < whole.peak
    # blocks and mergings, one after the other, and nothing twice
    found = build_backbone(small()).units()
    names = [type(unit).__name__ for unit in found]
    assert names.count("SwinBlock") == 8 and names.count("PatchMerging") == 2 and len(set(found)) == 10


def test_a_loss_scale_that_every_rank_finds_for_itself_is_refused():
    with pytest.raises(ConfigError, match=r"train.shard=True does not go with train.precision='fp16'.*bf16"):
        validate(from_tree(type(CONFIG), to_tree(small(shard=True, precision="fp16"))))

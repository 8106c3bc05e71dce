"""Two processes under torchrun do what one process with the whole batch does."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from esvit_fast.config import save_config
from esvit_fast.runs.metrics import read_metrics

from ..training.runs import small, start, trained_weights

pytestmark = pytest.mark.slow


def under_torchrun(*arguments):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "esvit_fast",
    ]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_equal_to_one_process_with_twice_the_batch(tmp_path, accumulation_steps):
    config = small(accumulation_steps=accumulation_steps, learning_rate=5e-3, epochs=1)
    save_config(config, tmp_path / "recipe.yaml")
    done = under_torchrun("pretrain", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    start(tmp_path / "one", replace(config, train=replace(config.train, accumulation_steps=1)))
    for ours, theirs in zip(*(read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two")), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["teacher_entropy"] == pytest.approx(theirs["teacher_entropy"], rel=1e-5)
    one, two = (trained_weights(tmp_path / name) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_rank_count_that_does_not_divide_the_batch(tmp_path):
    config = small(batch_size=7)
    save_config(config, tmp_path / "recipe.yaml")
    done = under_torchrun("pretrain", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("esvit-fast")]
    assert said == [
        "esvit-fast: error: --train.batch-size=7 is not divisible by world_size=2 x accumulation_steps=1; "
        "start 1 or 7 ranks, or pass --train.batch-size 6 or 8"
    ]

"""Whole runs: what they write, that they can be resumed exactly, and how they end."""

import itertools
import json
import logging
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from esvit_fast.config import ConfigError, load_config, save_config
from esvit_fast.data import SourceError, TooManyCorrupt
from esvit_fast.models import create_model
from esvit_fast.models.weights import load_weights
from esvit_fast.runs.checkpoint import CheckpointError, load_latest, save_weights
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import NotFinite, Trainer, build_backbone, pretrain, resume

from .runs import (
    CPU,
    Silent,
    batches,
    broken_after,
    folder_of_images,
    go_on,
    in_process,
    nan_loss,
    small,
    start,
    trained_weights,
    with_data,
)

TIMES = ("images_per_s", "data_wait_share")


def same_weights(one, other):
    a, b = (load_latest(run / "checkpoints") for run in (one, other))
    assert a.step == b.step and a.tensors.keys() == b.tensors.keys()
    return all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def same_records(one, other):
    a, b = (
        [{k: v for k, v in r.items() if k not in TIMES} for r in read_metrics(run / "metrics.jsonl")]
        for run in (one, other)
    )
    return a == b


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "finished"
    reporter = Silent()
    outcome = pretrain(small(), run, CPU, reporter)
    assert (outcome.step, outcome.total_steps, outcome.signal) == (12, 12, None)
    assert reporter.started == 0 and reporter.stopped
    return run


def test_a_run_leaves_all_that_it_should(finished):
    assert load_config(finished / "config.yaml") == small()
    assert torch.__version__.startswith(json.loads((finished / "environment.json").read_text())["torch"])
    assert sorted(p.name for p in (finished / "checkpoints").iterdir()) == ["step_12", "step_9"]
    records = read_metrics(finished / "metrics.jsonl")
    assert [r["step"] for r in records] == list(range(1, 13))
    assert all(0 < r["loss"] < 2 * math.log(16) and 0 < r["teacher_entropy"] <= math.log(16) + 1e-5 for r in records)
    assert records[0]["lr"] == 0 and records[3]["lr"] == pytest.approx(3e-2 * 8 / 256)
    model = create_model("swin_nano_w4", pretrained=finished)
    teacher = load_latest(finished / "checkpoints").tensors
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, teacher[f"method.teacher.backbone.{name}"])


def test_the_run_learns_from_its_initial_weights(finished):
    initial, trained = (
        build_backbone(small()).state_dict(),
        create_model("swin_nano_w4", pretrained=finished).state_dict(),
    )
    moved = [name for name in initial if not torch.equal(initial[name], trained[name])]
    assert len(moved) > 0.9 * len(initial)


def test_the_same_run_twice_is_the_same(finished, tmp_path):
    start(tmp_path / "again", small())
    assert same_weights(finished, tmp_path / "again") and same_records(finished, tmp_path / "again")


@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_by_sigterm_and_resumed(finished, tmp_path, workers):
    run = tmp_path / "run"
    config = with_data(small(), workers=workers)

    class Stopping(Silent):
        def step(self, step, record):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    outcome = pretrain(config, run, CPU, Stopping())
    assert (outcome.step, outcome.signal) == (5, signal.SIGTERM)
    assert load_latest(run / "checkpoints").step == 5
    outcome = go_on(run)
    assert (outcome.step, outcome.signal) == (12, None)
    assert same_weights(finished, run) and same_records(finished, run)


@pytest.mark.slow
def test_a_signal_to_the_whole_group_spares_the_workers(tmp_path):
    save_config(with_data(small(epochs=50), workers=2), tmp_path / "recipe.yaml")
    run, command = tmp_path / "run", [sys.executable, "-m", "esvit_fast", "pretrain", "--recipe"]
    process = subprocess.Popen(
        [*command, tmp_path / "recipe.yaml", "--out", run], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (run / "metrics.jsonl").exists() or not read_metrics(run / "metrics.jsonl"):
        time.sleep(0.1)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "saved; go on with `esvit-fast resume" in err
    assert _saved(run) == read_metrics(run / "metrics.jsonl")[-1]["step"]


def test_second_signal_is_not_caught(tmp_path):
    class Impatient(Silent):
        def step(self, step, record):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.1)  # the same one within a second is the same request
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        pretrain(small(), tmp_path / "run", CPU, Impatient())


def _saved(run):
    """Step of the newest whole checkpoint; 0 before the first."""
    latest = load_latest(run / "checkpoints")
    return latest.step if latest else 0


@pytest.mark.slow
def test_killed_at_twenty_random_moments(finished, tmp_path):
    rng, interval, kills, lost = random.Random(0), small().train.checkpoint_every_steps, 0, []
    for number in itertools.count():
        run = tmp_path / f"run{number}"
        while _saved(run) < 12:
            begun = (run / "config.yaml").exists()
            process = in_process(go_on, run) if begun else in_process(start, run, small())
            process.join(rng.uniform(0.2, 3.0) if kills < 20 else None)
            if process.exitcode is None:
                process.kill()
                process.join()
                kills += 1
                done = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []
                lost.append(max((r["step"] for r in done), default=0) - _saved(run))
            else:
                assert process.exitcode == 0
        assert same_weights(finished, run) and same_records(finished, run)
        if kills >= 20:
            break
    assert len(lost) == 20 and max(lost) <= interval


def test_a_damaged_checkpoint_is_passed_over(finished, tmp_path, caplog):
    run = tmp_path / "run"
    start(run, small())
    file = run / "checkpoints" / "step_12" / "state.safetensors"
    with open(file, "r+b") as state:
        state.truncate(1000)
    with caplog.at_level(logging.WARNING):
        assert go_on(run).step == 12
    assert "step_12" in caplog.text and "trying the previous one" in caplog.text
    assert same_weights(finished, run) and same_records(finished, run)


def test_resuming_a_complete_run_changes_nothing(finished):
    before = (finished / "metrics.jsonl").read_bytes()
    outcome = go_on(finished)
    assert outcome.begun == outcome.step == outcome.total_steps == 12
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("left", ["nothing", "those of an earlier step", "half"])
def test_resuming_makes_weights_current_and_removes_what_a_kill_left(finished, tmp_path, left):
    run = shutil.copytree(finished, tmp_path / "run")
    file = run / "model.safetensors"
    weights, meta = load_weights(finished / "model.safetensors")
    if left == "nothing":
        file.unlink()
    elif left == "half":
        file.write_bytes(file.read_bytes()[:10_000])
    else:
        save_weights(file, weights, meta | {"step": 9, "samples": 72})
    (run / ".tmp-metrics.jsonl-01234567").mkdir()
    (run / "checkpoints" / ".tmp-step_12-01234567").mkdir()
    go_on(run)
    found, told = load_weights(file)
    assert told == meta and all(torch.equal(found[name], weights[name]) for name in weights)
    assert not list(run.rglob(".*")) and not (run / "run.lock").exists()


def test_fewer_epochs_than_a_run_has_done_are_refused(finished):
    config, before = small(epochs=1), (finished / "config.yaml").read_bytes()
    message = r"train\.epochs=1 is 6 steps, but the run has done 12 \(2 epochs\); pass --train.epochs 2 or more"
    with pytest.raises(ConfigError, match=message):
        resume(finished, CPU, Silent(), config)
    assert (finished / "config.yaml").read_bytes() == before


def test_images_of_a_run_are_found_from_another_folder(tmp_path, monkeypatch):
    folder_of_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    start(tmp_path / "run", with_data(small(epochs=0.5), source="images"))
    config = load_config(tmp_path / "run" / "config.yaml")
    assert config.data.source == str(tmp_path / "images")
    monkeypatch.chdir("/")
    assert go_on(tmp_path / "run").step == 2
    save_config(with_data(config, source="images"), tmp_path / "run" / "config.yaml")
    with pytest.raises(SourceError, match=r"'images' .*; this path is relative to the folder in .*--data\.source$"):
        go_on(tmp_path / "run")


def test_accumulation_and_workers_change_only_rounding(finished, tmp_path):
    config = small(accumulation_steps=2)
    config = type(config)(**(vars(config) | {"model": type(config.model)("swin_nano_w4", 0.0)}))
    for name, accumulation in (("one", 1), ("two", 2)):
        train = type(config.train)(**(vars(config.train) | {"accumulation_steps": accumulation}))
        start(tmp_path / name, type(config)(**(vars(config) | {"train": train})))
    one, two = (trained_weights(tmp_path / name) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_starts_as_full_precision_and_trains_float32_weights(precision):
    losses = {}
    for name in ("fp32", precision):
        trainer = Trainer(small(precision=name, learning_rate=1e-3), 48, CPU)
        weight = trainer.method.student.backbone.norm.weight
        before = weight.detach().clone()
        losses[name] = [trainer.train_step([batch]).values["loss"].item() for batch in batches(18)]
        assert {p.dtype for p in trainer.method.parameters()} == {torch.float32}
        assert not torch.equal(before, weight)
        # the search for float16's loss scale costs steps, 65536 being far too much for a head this small
        assert trainer.skipped <= (14 if name == "fp16" else 0) and trainer.skipped_in_a_row == 0
    assert losses[precision][0] != losses["fp32"][0]
    assert losses[precision][0] == pytest.approx(losses["fp32"][0], rel=0.02)
    assert all(map(math.isfinite, losses[precision]))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_views_come_in_the_precision_of_training_which_changes_no_step(precision):
    """The first operation of autocast would round them just so."""
    batch, steps = batches(1)[0], []
    for dtype in (None, torch.float32):
        trainer = Trainer(small(precision=precision), 48, CPU)
        assert trainer.augment.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        trainer.augment.dtype = dtype or trainer.augment.dtype
        steps.append(trainer.train_step([batch]))
    a, b = steps
    assert a.values.keys() == b.values.keys()
    # equal_nan: a gradient that is not finite is part of float16's search for its loss scale
    assert all(torch.equal(a.values[name], b.values[name]) for name in a.values)
    torch.testing.assert_close(a.grad_norm, b.grad_norm, rtol=0, atol=0, equal_nan=True)


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, monkeypatch):
    trainer = Trainer(small(), 48, CPU)
    images = batches(4)
    trainer.train_step(images[:1])
    before = {name: t.clone() for name, t in trainer.state()[0].items()}
    nan_loss(monkeypatch)
    assert not trainer.train_step(images[1:2]).taken
    assert (trainer.step, trainer.skipped) == (2, 1)
    after = trainer.state()[0]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not trainer.method.loss._noted
    trainer.train_step(images[2:3])
    with pytest.raises(NotFinite, match=r"not finite in steps 2 to 4; lower train\.learning_rate"):
        trainer.train_step(images[3:4])


def test_three_bad_steps_stop_the_run_with_the_last_good_checkpoint(tmp_path, monkeypatch):
    broken_after(4, monkeypatch)
    with pytest.raises(NotFinite, match="the checkpoint of step 3 is the last good one"):
        start(tmp_path / "run", small())
    assert load_latest(tmp_path / "run" / "checkpoints").step == 3


def test_accuracy_before_the_first_step_is_recorded_once(tmp_path):
    config, run = small(checkpoint_every_steps=100), tmp_path / "run"
    config = replace(config, eval=replace(config.eval, knn_every_epochs=1.0))

    class Broken(Silent):
        def step(self, step, record):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        pretrain(config, run, CPU, Broken())
    go_on(run)
    assert [r["step"] for r in read_metrics(run / "metrics.jsonl") if r["kind"] == "knn"] == [0, 6, 12]


def test_on_a_cpu_products_are_exact_whatever_is_asked_for():
    for matmul in ("fast", "exact"):
        Trainer(small(matmul=matmul), 48, CPU)
        assert torch.get_float32_matmul_precision() == "highest"


def test_knn_is_measured_when_it_is_due(tmp_path):
    config = small()
    config = type(config)(**(vars(config) | {"eval": type(config.eval)(0.5, 32, 16)}))
    reporter = Silent()
    pretrain(config, tmp_path / "run", CPU, reporter)
    assert [r["epoch"] for r in reporter.accuracies] == [0, 0.5, 1, 1.5, 2]
    assert all(r["k"] == 20 and 0 <= r["top1"] <= 100 for r in reporter.accuracies)
    assert [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "knn"] == reporter.accuracies


def test_few_broken_images_are_replaced(tmp_path, caplog):
    source = folder_of_images(tmp_path / "images", torn=(7,))
    config = with_data(small(), source=source, max_corrupt_share=0.1)
    with caplog.at_level(logging.WARNING):
        assert start(tmp_path / "run", config).step == 10
    assert sum("007.png" in record.message for record in caplog.records) == 1


def test_many_broken_images_stop_the_run(tmp_path):
    source = folder_of_images(tmp_path / "images", torn=range(0, 40, 4))
    with pytest.raises(TooManyCorrupt, match=r"data\.max_corrupt_share=0\.1 is exceeded"):
        start(tmp_path / "run", with_data(small(), source=source, max_corrupt_share=0.1))
    steps = [r["step"] for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if r["kind"] == "train"]
    assert load_latest(tmp_path / "run" / "checkpoints").step == steps[-1] > 0, "what was learned is lost"


def test_a_run_that_cannot_be_evaluated_leaves_its_folder_free(tmp_path, monkeypatch):
    monkeypatch.setattr("esvit_fast.training.run.OnlineKnn", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        start(tmp_path / "run", small())
    assert not (tmp_path / "run").exists()


def test_what_cannot_work(finished, tmp_path):
    with pytest.raises(ValueError, match=r"already holds a run; continue it with `esvit-fast resume"):
        start(finished, small())
    with pytest.raises(ValueError, match=r"holds no run \(no config\.yaml\)"):
        go_on(tmp_path)
    with pytest.raises(ValueError, match=r"batch_size=64 is larger than the data, which has 50 images"):
        start(tmp_path / "run", small(batch_size=64))
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_architecture_or_other_data_is_refused(finished, tmp_path):
    checkpoint = load_latest(finished / "checkpoints")
    config = small()
    wider = type(config)(**(vars(config) | {"method": type(config.method)(**(vars(config.method) | {"out_dim": 32}))}))
    with pytest.raises(
        CheckpointError, match=r"is of another architecture .* tensors differ, first loss\.region_center"
    ):
        Trainer(wider, 48, CPU).load(checkpoint)
    with pytest.raises(CheckpointError, match=r"saw other images than data\.source='sample:50' has now"):
        Trainer(config, 48, CPU, "another").load(checkpoint)
    larger = Trainer(small(batch_size=16), 48, CPU, checkpoint.meta["data"])
    with pytest.raises(CheckpointError, match=r"train\.batch_size=8, which is now 16; .*resume with 8"):
        larger.load(checkpoint)


def test_images_that_are_all_unreadable_stop_the_run_with_one_line(tmp_path):
    source = folder_of_images(tmp_path / "images", torn=range(40))
    with pytest.raises(TooManyCorrupt, match="images in a row cannot be read"):
        start(tmp_path / "run", with_data(small(), source=source))


def test_resume_reads_the_configuration_of_the_run(finished):
    reporter = Silent()
    resume(finished, CPU, reporter)
    assert reporter.started == 12
    assert time.time() > (finished / "config.yaml").stat().st_mtime

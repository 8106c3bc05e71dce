"""Steps that nobody waits for: what is decided on the device, and read a step late, here on a CPU."""

import os
import signal

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from esvit_fast import ops
from esvit_fast.runs.checkpoint import load_latest
from esvit_fast.runs.metrics import read_metrics
from esvit_fast.training import NotFinite, Ranks, Trainer, pretrain
from esvit_fast.training.files import RunFiles
from esvit_fast.training.monitoring.signals import signals

from ..runs import CPU, Silent, batches, broken_after, go_on, nan_loss, read_late, small, start, trained_weights


@pytest.fixture
def late():
    with read_late():
        yield


def fake_step(lag):
    """A step of numbers that are only traced: whoever looks at one raises."""
    batch = batches(1)
    # others decide what is kept, as activations have no address
    kept = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
    with FakeTensorMode(allow_non_fake_inputs=True), kept, ops.backend("reference"):
        trainer = Trainer(small(), 48, CPU)
        trainer.lag = lag
        return trainer.train_step(batch)


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_step_looks_at_no_number(monkeypatch):
    monkeypatch.setattr(nn.Module, "to", lambda self, device: self)  # fakes cannot be moved
    assert fake_step(lag=1).grad_norm.shape == ()
    with pytest.raises(DataDependentOutputException):
        fake_step(lag=0)


@pytest.mark.parametrize(("precision", "skipped"), [("fp32", 0), ("fp16", 2)])
def test_what_is_decided_on_the_device_is_what_is_decided_here(precision, skipped):
    trainers = [Trainer(small(precision=precision, learning_rate=1e-3), 48, CPU) for _ in range(2)]
    trainers[1].lag = 1
    for trainer in trainers:
        trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 128.0} if precision == "fp16" else {})
    for batch in batches(skipped + 3):
        ours, theirs = (trainer.train_step([batch]) for trainer in trainers)
        assert torch.equal(ours.taken, theirs.taken)
        assert trainers[1].skipped == trainers[0].skipped - (not ours.taken)  # not counted yet
    (ours, facts), (theirs, others) = (trainer.state() for trainer in trainers)
    assert facts == others and facts["skipped"] == skipped and ours.keys() == theirs.keys()
    for name in ours if precision == "fp32" else ():  # float16 makes more of a last bit
        if "qkv.bias" not in name:  # that of keys has no gradient but rounding
            a, b = ours[name], theirs[name]
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_skipped_step_changes_nothing_and_is_counted_a_step_later(late, monkeypatch):
    trainer, images = Trainer(small(), 48, CPU), batches(8)
    for batch in images[:4]:
        trainer.train_step([batch])
    before = {name: t.clone() for name, t in trainer.state()[0].items()}
    nan_loss(monkeypatch)
    assert not trainer.train_step(images[4:5]).taken
    assert (trainer.step, trainer.skipped) == (5, 0)
    after = trainer.state()[0]
    assert trainer.skipped == 1 and all(torch.equal(before[name], after[name]) for name in before)
    trainer.train_step(images[5:6]), trainer.train_step(images[6:7])
    with pytest.raises(NotFinite, match="not finite in steps 5 to 7"):
        trainer.train_step(images[7:8])


@pytest.mark.parametrize("what", ["knn", "checkpoint"])
def test_all_ranks_raise_together_before_they_wait_for_one_another(late, tmp_path, monkeypatch, what):
    trainer = Trainer(small(), 48, CPU)
    nan_loss(monkeypatch)
    for batch in batches(3):
        trainer.train_step([batch])
    trainer.ranks = Ranks(1, 2, CPU.device)  # which writes nothing
    with pytest.raises(NotFinite, match="not finite in steps 1 to 3"):
        getattr(RunFiles(tmp_path, trainer, Silent()), what)(trainer, lambda teacher: {})


def test_of_steps_that_were_all_skipped_weights_are_none_the_less_told(late, monkeypatch):
    trainer = Trainer(small(), 48, CPU)
    nan_loss(monkeypatch)
    assert signals(trainer, trainer.train_step(batches(1)))["update_ratio"] == 0


def test_a_run_is_the_same_and_resumes_to_the_same_bits(late, tmp_path):
    class Stopping(Silent):
        def step(self, step, record):
            super().step(step, record)
            if step == 5 and record["step"] == 4:
                os.kill(os.getpid(), signal.SIGTERM)

    start(tmp_path / "whole", small())
    reporter = Stopping()
    assert pretrain(small(), tmp_path / "run", CPU, reporter).step == 5
    assert [r and r["step"] for r in reporter.records] == [None, 1, 2, 3, None, 4, 5]  # a checkpoint waits
    go_on(tmp_path / "run")
    steps = [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, 13))
    whole, resumed = (load_latest(tmp_path / name / "checkpoints").tensors for name in ("whole", "run"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_three_bad_steps_stop_a_run_with_their_records_and_the_last_good_checkpoint(late, tmp_path, monkeypatch):
    broken_after(4, monkeypatch)
    with pytest.raises(NotFinite, match="the checkpoint of step 3 is the last good one"):
        start(tmp_path / "run", small())
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(r["step"], r["skipped_steps"]) for r in records[3:]] == [(4, 0), (5, 1), (6, 2), (7, 3)]
    assert trained_weights(tmp_path / "run")["method.student.backbone.norm.weight"].isfinite().all()

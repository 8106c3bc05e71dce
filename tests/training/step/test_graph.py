"""A step that is recorded once and replayed, here on a CPU, where recording is remembering what to call."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esvit_fast import ops
from esvit_fast.config import ConfigError
from esvit_fast.methods.esvit import EsViTPoint
from esvit_fast.runs.checkpoint import load_checkpoint, save_checkpoint
from esvit_fast.training import Ranks, Trainer, pretrain
from esvit_fast.training.planning.dry_step import _prepared, _without_memory, noise
from esvit_fast.training.step import graph as step_graph
from esvit_fast.training.step.graph import StepGraph

from ..runs import CPU, Silent, batches, small

GPU = torch.device("cuda", 0)


@pytest.fixture
def recorded(monkeypatch):
    """How often something was recorded, and replayed."""
    counts = {"aside": 0, "recorded": 0, "replayed": 0}

    def aside(function, device):
        counts["aside"] += 1
        return function()

    def record(function, device):
        counts["recorded"] += 1
        out = None

        def replay():
            nonlocal out
            counts["replayed"] += 1
            done = function()
            out = out or done
            for mine, new in zip(tree_leaves(out), tree_leaves(done), strict=True):
                mine.detach().copy_(new)
            return out

        return replay

    monkeypatch.setattr(step_graph, "aside", aside)
    monkeypatch.setattr(step_graph, "recorded", record)
    return counts


def trainer(graph, **train):
    made = Trainer(small(learning_rate=1e-3, epochs=3, **train), 48, CPU)
    made.lag = 1
    if graph:
        made._graph = StepGraph(made._work, made.optimizer, CPU.device, made.method.on_device)
    return made


def assert_alike(ours, theirs):
    (ours, facts), (theirs, others) = ours.state(), theirs.state()
    assert facts == others and ours.keys() == theirs.keys()
    for name in theirs:
        if "qkv.bias" not in name:  # that of keys has no gradient but rounding
            a, b = ours[name], theirs[name]
            torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_run_of_graphs_is_the_run(recorded):
    ours, theirs = trainer(True), trainer(False)
    for batch in batches(18):
        mine, other = (each.train_step([batch]) for each in (ours, theirs))
        for name, value in other.values.items():
            torch.testing.assert_close(mine.values[name], value, rtol=1e-4, atol=1e-4)
    assert_alike(ours, theirs)
    # frozen, trained, and two more epochs with temperatures of their own: 3, 3, 6 and 6 steps
    assert recorded == {"aside": 12, "recorded": 2, "replayed": 6}


def test_results_are_not_overwritten_by_the_next_step(recorded):
    made = trainer(True, freeze_last_layer_epochs=0)
    done = [made.train_step([batch]) for batch in batches(6)]
    assert recorded["replayed"] == 3
    losses = [each.values["loss"].item() for each in done]
    assert len(set(losses)) == 6 and len({each.grad_norm.item() for each in done}) == 6


def test_a_replayed_step_that_is_skipped_changes_nothing(recorded):
    made = trainer(True, freeze_last_layer_epochs=0)
    for batch in batches(5):
        made.train_step([batch])
    before = {name: tensor.clone() for name, tensor in made.state()[0].items()}
    made.augment = lambda batch, device, augment=made.augment: [view * torch.nan for view in augment(batch, device)]
    assert not made.train_step(batches(1)).taken and recorded["replayed"] == 3
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state()[0].items()) and made.skipped == 1


def test_what_a_checkpoint_replaces_is_recorded_again(recorded, tmp_path):
    made, other = trainer(True, freeze_last_layer_epochs=0), trainer(False, freeze_last_layer_epochs=0)
    images = batches(12)
    for batch in images[:5]:
        other.train_step([batch])
        made.train_step([batch])
    tensors, meta = other.state()
    made.load(load_checkpoint(save_checkpoint(tmp_path, 5, tensors, meta, 1)))
    for batch in images[5:]:
        other.train_step([batch])
        made.train_step([batch])
    assert_alike(made, other)
    assert recorded["recorded"] == 2


class Read(TorchDispatchMode):
    """Storages that operators read and that none of them has made; kept, so that none takes the place of another."""

    def __init__(self):
        super().__init__()
        self.made, self.read, self.kept = set(), set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given, new = ([x for x in tree_leaves(y) if isinstance(x, torch.Tensor)] for y in ((args, kwargs), out))
        self.read |= {x.untyped_storage()._cdata for x in given} - self.made
        self.made |= {x.untyped_storage()._cdata for x in new} - self.read
        self.kept += given + new
        return out


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_replay_reads_what_the_recorded_step_read(recorded, precision):
    """A graph holds addresses: what lies elsewhere in the next step, or is freed, it would not see."""
    made = trainer(True, freeze_last_layer_epochs=0, precision=precision)
    work, seen = made._graph.work, []

    def watched(*args):
        with Read() as reading:
            done = work(*args)
        seen.append(reading)
        return done

    made._graph.work = watched
    for batch in batches(6):
        made.train_step([batch])
    assert recorded["replayed"] == 3
    assert seen[3].read == seen[4].read == seen[5].read and len(seen[3].read) > 100


class OnDevice(TorchDispatchMode):
    """Operators that touch the host: a graph could not hold them."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        if any(x.device.type == "cpu" and x.ndim for x in tensors) or "_local_scalar_dense" in str(func):
            self.found.append(str(func))
        return out


@pytest.mark.parametrize("centering", ["mean", "sinkhorn"])
def test_work_on_a_gpu_touches_nothing_of_the_host(monkeypatch, centering):
    """Backward passes and the optimiser's kernel are torch's, and need a GPU; all before and between is seen here."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setenv("ESVIT_FAST_UNPROVEN", "1")
    config = small()
    config = replace(config, method=replace(config.method, centering=centering, koleo_weight=0.1))
    with _without_memory(), ops.backend("triton"):
        made = _prepared(config, Ranks(0, 1, GPU))

        def backward(loss):
            for parameter in made.method.student.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None

        monkeypatch.setattr(torch.Tensor, "backward", backward)
        monkeypatch.setattr(made.optimizer, "step", lambda: None)
        views = list(made._views([noise(config, 8, GPU)]))
        keep, momentum = torch.zeros(2, device=GPU).unbind()
        with OnDevice() as seen:
            done = made._work(views, 1, EsViTPoint(0.04, momentum, False), keep)
        assert not seen.found and done.norm.device == GPU
        with OnDevice() as seen:
            torch.tensor([1, 2]).to(GPU, non_blocking=True)
        assert seen.found  # it would be


@pytest.mark.parametrize(
    ("ranks", "train", "message"),
    [
        (CPU, {}, r"train.cuda_graph=True is for one GPU, but this run is on 1 x cpu; leave it out"),
        (Ranks(0, 2, GPU), {}, "on 2 x cuda"),
        (Ranks(0, 1, GPU), {"accumulation_steps": 2}, "takes a step of one micro-batch, but this run accumulates 2"),
    ],
)
def test_where_there_can_be_no_graph(ranks, train, message):
    with pytest.raises(ConfigError, match=message):
        step_graph.check_one_gpu(small(cuda_graph=True, **train).train, ranks)


def test_a_run_that_asks_for_one_on_a_cpu_or_for_its_parts_is_told(tmp_path):
    with pytest.raises(ConfigError, match="train.cuda_graph=True is for one GPU"):
        Trainer(small(cuda_graph=True), 48, CPU)
    with pytest.raises(ValueError, match="profile=2 tells the parts of a step apart, .* pass --train.no-cuda-graph"):
        pretrain(small(cuda_graph=True), tmp_path / "run", CPU, Silent(), 2)
    assert not (tmp_path / "run").exists()

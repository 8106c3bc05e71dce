"""The dry step against the real one, whose allocations torch's profiler counts."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring.memory import peak_bytes
from benchmarks.systems.step import plain_torch
from esvit_fast.config import Config
from esvit_fast.models import create_model
from esvit_fast.ops.prototype_cross_entropy.cpu import scratch_bytes
from esvit_fast.training import Ranks, Trainer
from esvit_fast.training.planning.dry_step import KINDS, dry_step, noise

from ..runs import CPU, small


def config(**changes) -> Config:
    """With enough prototypes for the scratch of the loss to count."""
    made = small(freeze_last_layer_epochs=0, batch_size=16)
    crops = replace(made.data.crops, global_size=32, local_sizes=(16,))
    method = replace(made.method, out_dim=4096, head_hidden_dim=256, head_bottleneck_dim=64)
    method = replace(method, **{k: v for k, v in changes.items() if hasattr(method, k)})
    train = replace(made.train, **{k: v for k, v in changes.items() if hasattr(made.train, k)})
    model = replace(made.model, **{k: v for k, v in changes.items() if hasattr(made.model, k)})
    return replace(made, model=model, method=method, train=train, data=replace(made.data, crops=crops))


def allocated(config: Config, images: int, ranks: Ranks = CPU) -> int:
    def run():
        trainer = Trainer(config, 1000 * config.train.batch_size, ranks)
        for _ in range(2):
            trainer.train_step([noise(config, images) for _ in range(config.train.accumulation_steps)])

    return peak_bytes(run, "cpu")


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        {"accumulation_steps": 2},
        {"checkpoint_stages": (0, 1)},
        {"centering": "sinkhorn", "koleo_weight": 0.5, "norm_last_layer": True, "head_batch_norm": True},
        {"region_weight": 0.0, "view_weight": 1.0},
    ],
    ids=lambda changes: "-".join(changes) or "default",
)
def test_the_peak_is_that_of_a_real_step(changes):
    chosen, images = config(**changes), 8
    assert dry_step(chosen, images, CPU).peak == pytest.approx(allocated(chosen, images), rel=0.03)


def test_no_memory_is_taken():
    found = dry_step(config(), 10**6, CPU)
    assert found.peak > 2**40


def test_parts_are_what_they_say():
    chosen = config()
    found, trainer = dry_step(chosen, 2, CPU), Trainer(chosen, 80, CPU)
    student = sum(p.numel() for p in trainer.method.student.parameters())
    assert sum(found.parts.values()) == found.peak
    assert list(found.parts) == list(KINDS)
    assert found.parts["weights"] == found.parts["teacher"] == 4 * student
    assert found.parts["optimizer"] >= 8 * student
    assert found.parameters["backbone"] + found.parameters["heads"] == found.parameters["trained"] == student
    trainer.train_step([noise(chosen, 2)])
    assert found.checkpoint == sum(x.numel() * x.itemsize for x in trainer.state()[0].values())
    assert found.model == sum(x.numel() * x.itemsize for x in trainer.teacher.state_dict().values())


@pytest.fixture
def group(monkeypatch):
    """Of this process alone, which allocates as with others, but for the copy that makes ranks alike at the start.

    Gloo's thread may be the last that holds it, and what that thread frees the profiler does not see.
    """
    monkeypatch.setattr("torch.nn.parallel.distributed._sync_module_states", lambda **_: None)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_the_peak_with_several_ranks(accumulation_steps, group):
    chosen, two = config(accumulation_steps=accumulation_steps), Ranks(0, 2, CPU.device)
    assert dry_step(chosen, 4, two).peak == pytest.approx(allocated(chosen, 4, two), rel=0.03)


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
@pytest.mark.parametrize(
    ("rows", "prototypes", "width", "dtype"),
    [(1, 64, 16, torch.float32), (300, 4096, 100, torch.float64), (700, 70_000, 8, torch.float32)],
)
@pytest.mark.parametrize(("values", "outer"), [(False, True), (True, False)])
def test_scratch_of_the_loss(rows, prototypes, width, dtype, values, outer):
    scale, x, keys = (torch.ones(shape, dtype=dtype) for shape in (prototypes, (rows, width), (prototypes, width)))
    given = *((keys, scale) if values else (None, None)), *((x, keys.clone()) if outer else (None, None))
    found = []

    def assign():
        found.extend(torch.ops.esvit_fast_cpu.prototype_assignment(x, keys, scale, None, *given, True))

    scratch = peak_bytes(assign, "cpu") - sum(t.numel() * t.itemsize for t in found)
    assert scratch == scratch_bytes(rows, width, prototypes, dtype.itemsize, values, outer)


def test_torch_is_left_as_it_was():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    precision = torch.get_float32_matmul_precision()
    dry_step(config(matmul="fast"), 2, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_float32_matmul_precision() == precision
    assert type(torch.ones(1) + 1) is torch.Tensor
    result = Trainer(config(), 80, CPU).train_step([noise(config(), 8)])  # nothing without memory was kept
    assert result.values["loss"].isfinite()


def test_arithmetic_of_a_backbone_is_what_torch_counts():
    with plain_torch(), FlopCounterMode(display=False) as counter, torch.no_grad():
        create_model("swin_nano_w4")(torch.zeros(1, 3, 32, 32))  # no window is padded: plain torch multiplies pads, too
    assert dry_step(config(), 2, CPU).flops["32 px"] == counter.get_total_flops()


def test_arithmetic_is_that_of_the_paper():
    """Swin-T takes 4.5 G multiplications and additions at 224 x 224 (arXiv 2103.14030, table 1)."""
    chosen = replace(Config(), data=replace(Config().data, crops=replace(Config().data.crops, local_counts=(1,))))
    flops = dry_step(chosen, 1, CPU).flops
    assert flops["224 px"] == pytest.approx(2 * 4.5e9, rel=0.005)
    assert flops["forward"] == 4 * flops["224 px"] + flops["96 px"] + flops["heads"] + flops["loss"]
    # backward passes multiply twice what forward passes of the student do; attention computes its scores again
    assert 2.0 < (flops["step"] - flops["forward"]) / (2 * flops["224 px"] + flops["96 px"]) < 2.6

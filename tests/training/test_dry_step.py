"""The dry step against the real one, whose allocations torch's profiler counts."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import peak_bytes
from benchmarks.step import plain_torch
from esvit_fast.config import Config
from esvit_fast.models import create_model
from esvit_fast.training import Ranks, Trainer
from esvit_fast.training.dry_step import KINDS, dry_step, noise

from .runs import CPU, small


def config(**changes) -> Config:
    """Few prototypes, so that what the loss's kernel takes for itself is little."""
    made = small(freeze_last_layer_epochs=0)
    crops = replace(made.data.crops, global_size=32, local_sizes=(16,))
    method = replace(made.method, out_dim=64, head_hidden_dim=256, head_bottleneck_dim=64)
    method = replace(method, **{k: v for k, v in changes.items() if hasattr(method, k)})
    train = replace(made.train, **{k: v for k, v in changes.items() if hasattr(made.train, k)})
    return replace(made, method=method, train=train, data=replace(made.data, crops=crops))


def allocated(config: Config, images: int) -> int:
    def run():
        trainer = Trainer(config, 1000 * config.train.batch_size, CPU)
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
        {"centering": "sinkhorn", "koleo_weight": 0.5, "norm_last_layer": True, "head_batch_norm": True},
        {"region_weight": 0.0, "view_weight": 1.0},
    ],
    ids=lambda changes: "-".join(changes) or "default",
)
def test_the_peak_is_that_of_a_real_step(changes):
    chosen, images = config(**changes), 16
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


def test_several_ranks_keep_gradients_twice():
    chosen = config()
    alone, two = (dry_step(chosen, 2, Ranks(0, n, CPU.device)) for n in (1, 2))
    assert two.peak == alone.peak + 4 * alone.parameters["trained"]


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

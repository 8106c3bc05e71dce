"""Optimiser: published groups, clipping and EMA against plain loops, bit by bit; exact continuation from a file."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from esvit_fast.config import TrainConfig
from esvit_fast.runs.checkpoint import load_latest, save_checkpoint
from esvit_fast.training.step.optimizer import (
    apply_schedule,
    clip_gradients,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    parameter_groups,
)
from esvit_fast.training.step.schedules import SchedulePoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, 4)
        self.norm = nn.LayerNorm(8)
        self.relative_position_bias_table = nn.Parameter(torch.randn(49, 2))
        self.weight_g = nn.Parameter(torch.ones(6, 1))
        self.fixed = nn.Parameter(torch.ones(5, 1), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(2, 2))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.last = nn.Linear(8, 6)

    def forward(self, x):
        x = self.norm(self.embed(x).mean((2, 3)))
        return (
            self.last(x) @ self.weight_g * self.scale
            + self.relative_position_bias_table.square().mean()
            + self.bias.sin().sum()
        )


def point(rate: float, decay: float = 0.1) -> SchedulePoint:
    return SchedulePoint(rate, decay, ())


def parameters_with_gradients(seed: int, scale: float = 1.0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in [(64, 32), (32,), (), (8, 3, 4, 4), (1, 1), (7,)]]
    for index, p in enumerate(parameters[:-1]):
        p.grad = torch.randn(p.shape, generator=generator) * scale * 10.0 ** (index - 2)
    return parameters


def test_groups_are_the_published_ones():
    net = Net()
    names = {id(p): name for name, p in net.named_parameters()}
    decay, plain = ({names[id(p)] for p in group["params"]} for group in parameter_groups(net))
    assert decay == {"embed.weight", "relative_position_bias_table", "weight_g", "last.weight"}
    assert plain == {"embed.bias", "norm.weight", "norm.bias", "bias", "scale", "last.bias"}


def test_schedule_sets_rates_of_both_groups_and_decay_of_the_first():
    optimizer = make_optimizer(Net(), TrainConfig())
    assert [(g["lr"], g["weight_decay"], g["betas"]) for g in optimizer.param_groups] == [
        (0.0, 0.04, (0.9, 0.999)),
        (0.0, 0.0, (0.9, 0.999)),
    ]
    apply_schedule(optimizer, point(1e-3, 0.3))
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(1e-3, 0.3), (1e-3, 0.0)]


def test_a_step_is_adamw_of_the_paper():
    net = Net().double()
    optimizer = make_optimizer(net, TrainConfig())
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in before.items()}
    decayed = {"embed.weight", "relative_position_bias_table", "weight_g", "last.weight"}
    for step in (1, 2, 3):
        rate, decay = 1e-3 * step, 0.1 * step
        optimizer.zero_grad()
        net(torch.randn(4, 3, 8, 8, dtype=torch.float64)).square().mean().backward()
        apply_schedule(optimizer, point(rate, decay))
        optimizer.step()
        for name, p in net.named_parameters():
            if not p.requires_grad:
                continue
            m, v = moments[name]
            m = 0.9 * m + 0.1 * p.grad
            v = 0.999 * v + 0.001 * p.grad**2
            moments[name] = m, v
            w = before[name] * (1 - rate * decay if name in decayed else 1)
            before[name] = w - rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.detach(), before[name], rtol=1e-10, atol=1e-12)


def test_a_step_is_that_of_separate_operations_and_the_device_may_refuse_it():
    torch.manual_seed(0)
    nets = [Net()]
    nets.append(copy.deepcopy(nets[0]))
    fused = make_optimizer(nets[0], TrainConfig())
    plain = torch.optim.AdamW(parameter_groups(nets[1]), lr=0.0, weight_decay=0.04, foreach=True)
    for net, optimizer in zip(nets, (fused, plain), strict=True):
        train(net, optimizer, range(6))
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    before = copy.deepcopy((nets[0].state_dict(), fused.state_dict()["state"]))
    for p in nets[0].parameters():
        p.grad = torch.full_like(p, torch.nan)
    fused.found_inf = torch.ones(())
    fused.step()
    after = nets[0].state_dict(), fused.state_dict()["state"]
    torch.testing.assert_close(before, after, rtol=0, atol=0)


@pytest.mark.parametrize("max_norm", [0.3, 3.0, 1e4])
@pytest.mark.parametrize("by", ["tensor", "global"])
def test_clipping_matches_a_float64_loop(by, max_norm):
    parameters = parameters_with_gradients(0)
    exact = [p.grad.double() for p in parameters if p.grad is not None]
    total = torch.stack([g.square().sum() for g in exact]).sum().sqrt()
    norms = [g.square().sum().sqrt() if by == "tensor" else total for g in exact]
    expected = [g * min(1.0, max_norm / (float(norm) + 1e-6)) for g, norm in zip(exact, norms, strict=True)]
    found = clip_gradients(parameters, max_norm, by)
    assert found.shape == () and float(found) == pytest.approx(float(total), rel=1e-6)
    for p, e in zip(parameters, expected, strict=False):
        torch.testing.assert_close(p.grad, e.float(), rtol=2e-6, atol=0)
    assert parameters[-1].grad is None


def test_clipping_by_tensor_is_the_published_loop_bit_by_bit():
    parameters, published = parameters_with_gradients(1), parameters_with_gradients(1)
    clip_gradients(parameters, 0.5, "tensor")
    for p in published:
        if p.grad is not None and (coefficient := 0.5 / (p.grad.norm(2) + 1e-6)) < 1:
            p.grad.mul_(coefficient)
    for p, q in zip(parameters, published, strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad)


def test_small_gradients_and_clipping_turned_off_change_no_bit():
    for scale, max_norm in ((1e-6, 3.0), (1e3, 0.0)):
        parameters, untouched = parameters_with_gradients(2, scale), parameters_with_gradients(2, scale)
        for by in ("tensor", "global"):
            norm = clip_gradients(parameters, max_norm, by)
            assert all(
                torch.equal(p.grad, q.grad) for p, q in zip(parameters, untouched, strict=True) if q.grad is not None
            )
            assert float(norm) > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_gradient_shows_in_the_norm(bad):
    parameters = parameters_with_gradients(3)
    parameters[1].grad[3] = bad
    assert not torch.isfinite(clip_gradients(parameters, 3.0, "tensor"))


def test_no_gradients_have_norm_zero_and_an_unknown_rule_is_refused():
    assert clip_gradients([nn.Parameter(torch.ones(2))], 3.0, "tensor") == 0
    assert clip_gradients(iter(()), 3.0, "global") == 0
    with pytest.raises(ValueError, match="by='norm'"):
        clip_gradients([], 1.0, "norm")


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Deterministic steps; the last layer is frozen (no gradient) in the first three."""
    for step in steps:
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        for p in net.last.parameters():
            p.requires_grad_(step >= 3)
        optimizer.zero_grad()
        net(x).square().mean().backward()
        clip_gradients(net.parameters(), 0.5, "tensor")
        apply_schedule(optimizer, point(1e-3 * (step + 1), 0.01 * step))
        optimizer.step()


@pytest.mark.parametrize("first", [2, 5], ids=["before the last layer moved", "after"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_continuing_from_a_checkpoint_is_bit_exact(tmp_path, first, channels_last):
    torch.manual_seed(0)
    net = Net().to(memory_format=torch.channels_last) if channels_last else Net()
    twin = copy.deepcopy(net)
    whole = make_optimizer(net, TrainConfig())
    train(net, whole, range(10))

    half = make_optimizer(twin, TrainConfig())
    train(twin, half, range(first))
    saved = {**twin.state_dict(), **optimizer_tensors(half, twin.named_parameters())}
    assert ("optimizer.last.weight.exp_avg" in saved) == (first > 3)
    assert saved["optimizer.norm.bias.step"] == first
    save_checkpoint(tmp_path, first, saved, {}, keep=1)

    fresh = Net().to(memory_format=torch.channels_last) if channels_last else Net()
    again = make_optimizer(fresh, TrainConfig())
    train(fresh, again, range(4))  # state to be replaced
    loaded = load_latest(tmp_path).tensors
    fresh.load_state_dict({name: t for name, t in loaded.items() if not name.startswith("optimizer.")})
    load_optimizer_tensors(again, fresh.named_parameters(), loaded)
    assert again.state[fresh.norm.bias]["step"].device.type == "cpu"
    assert again.state[fresh.embed.weight]["exp_avg"].stride() == fresh.embed.weight.stride()
    train(fresh, again, range(first, 10))

    for name, tensor in net.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name
    expected = optimizer_tensors(whole, net.named_parameters())
    found = optimizer_tensors(again, fresh.named_parameters())
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_loaded_state_does_not_share_memory_with_what_was_given():
    net = Net()
    optimizer = make_optimizer(net, TrainConfig())
    train(net, optimizer, range(4))
    given = {key: t.clone() for key, t in optimizer_tensors(optimizer, net.named_parameters()).items()}
    kept = {key: t.clone() for key, t in given.items()}
    load_optimizer_tensors(optimizer, net.named_parameters(), given)
    train(net, optimizer, range(4, 6))
    assert all(torch.equal(given[key], kept[key]) for key in given)


def test_state_of_another_model_is_refused_by_name():
    net = Net()
    optimizer = make_optimizer(net, TrainConfig())
    train(net, optimizer, range(4))
    given = optimizer_tensors(optimizer, net.named_parameters())

    def load(tensors):
        load_optimizer_tensors(optimizer, net.named_parameters(), tensors)

    with pytest.raises(ValueError, match=r"'layers\.0\.weight', which is not trained here"):
        load({**given, "optimizer.layers.0.weight.exp_avg": torch.ones(2)})
    with pytest.raises(ValueError, match="'fixed', which is not trained here"):
        load({**given, "optimizer.fixed.exp_avg": torch.ones(5, 1)})
    with pytest.raises(ValueError, match=r"lacks 'optimizer\.norm\.bias\.exp_avg_sq'"):
        load({key: t for key, t in given.items() if key != "optimizer.norm.bias.exp_avg_sq"})
    with pytest.raises(ValueError, match=r"last\.weight\.exp_avg'\] has shape \[3, 8\].*wants \[6, 8\]"):
        load({**given, "optimizer.last.weight.exp_avg": torch.ones(3, 8)})
    unchanged = optimizer_tensors(optimizer, net.named_parameters())
    assert unchanged.keys() == given.keys() and all(unchanged[key] is given[key] for key in given)

"""Outputs and gradients of a model before and after patching, side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from esvit_fast.nn import patch_model, unpatch_model
from esvit_fast.nn.patching import Report
from tests import seeds

Results = dict[str, Tensor]


def shaken(model: nn.Module) -> nn.Module:
    """The model in eval mode with every parameter off its initial value, so that nothing hides behind a zero."""
    generator = seeds.generator(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.3 if parameter.ndim == 1 or "bias" in name or "logit" in name else 0.02)
    model.eval()
    return model


def image(size: tuple[int, ...], batch: int = 1) -> Tensor:
    return torch.randn(batch, *size, generator=seeds.generator(2))


def first(output) -> Tensor:
    """The tensor of interest: the first of what a model returns."""
    return output if isinstance(output, Tensor) else output[0]


def results(model: nn.Module, x: Tensor, call: Callable = nn.Module.__call__) -> Results:
    """Output, and gradients of the input and all parameters."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    output = first(call(model, x))
    weight = torch.randn(output.shape, generator=seeds.generator(3))
    (output * weight.to(output.dtype)).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "input": x.grad, **found}


def largest_error(found: Results, expected: Results, least: float) -> float:
    """The largest difference: of the output in units of its largest value, of a gradient in units of its largest value,
    or of `least` times the largest of all gradients if that is more.

    Many gradients are sums that cancel; that of a key's bias, for one, is zero but for rounding.
    """
    assert found.keys() == expected.keys()
    units = {name: float(x.abs().max()) for name, x in expected.items()}
    floor = least * max(unit for name, unit in units.items() if name != "output")
    units = {name: unit if name == "output" else max(unit, floor) for name, unit in units.items()}
    return max(float((found[name] - x).abs().max()) / units[name] for name, x in expected.items())


def check_in_float64(model: nn.Module, x: Tensor, call: Callable = nn.Module.__call__, tolerance=1e-9) -> Report:
    """Patch a copy and compare where rounding hides nothing."""
    double = copy.deepcopy(model).double()
    before = results(double, x.double(), call)
    report = patch_model(double)
    assert report.rows and all(row.patched for row in report), str(report)
    assert largest_error(results(double, x.double(), call), before, 1e-3) < tolerance
    return report


def check(model: nn.Module, x: Tensor, call: Callable = nn.Module.__call__, exact: bool = True) -> Report:
    """Patch, compare, unpatch, compare again, in float64 and float32.

    `exact`: the original computes in float64 when it is asked to.
    """
    report = check_in_float64(model, x, call, 1e-9 if exact else 1e-4)
    before = results(model, x, call)
    contents, weights = attributes(model), copy.deepcopy(model.state_dict())
    patch_model(model)
    after = results(model, x, call)
    assert any(not torch.equal(after[name], value) for name, value in before.items())  # it is another computation
    assert largest_error(after, before, 1) < 1e-5
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())

    assert [row.name for row in unpatch_model(model)] == [row.name for row in report]
    assert attributes(model) == contents
    again = results(model, x, call)
    assert all(torch.equal(again[name], value) for name, value in before.items())
    return report


def attributes(model: nn.Module) -> dict[str, set[str]]:
    """Names in the `__dict__` of every module."""
    return {name: set(vars(module)) for name, module in model.named_modules()}

"""Hooks that are registered for all modules at once."""

from __future__ import annotations

import contextlib
import copy
import warnings

import pytest
import torch
from torch import nn

from esvit_fast.nn import patch_model
from esvit_fast.nn.patching import redirect

from .models import KINDS, make
from .parity import first


@pytest.fixture(autouse=True)
def _warnings_are_fresh(monkeypatch):
    monkeypatch.setattr(redirect, "_warned", set())


@contextlib.contextmanager
def hooks_of_all_modules(hook):
    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_all_modules_are_called_as_the_original_calls_them(kind):
    model, x = make(kind)
    other, seen, found = copy.deepcopy(model).eval(), {}, {}
    patch_model(other)
    for name, each in {"original": model.eval(), "patched": other}.items():
        place, calls = {module: at for at, module in each.named_modules()}, []

        def halve(module, args, output, place=place, calls=calls):
            calls.append(place[module])
            return 0.5 * output if type(module) in (nn.Dropout, nn.Softmax, nn.Linear) else None

        with warnings.catch_warnings(record=True) as told, hooks_of_all_modules(halve), torch.no_grad():
            warnings.simplefilter("always")
            found[name], seen[name] = first(each(x)), calls
        said = any("hooks of all modules are registered, and the operator passes some" in str(w.message) for w in told)
        assert said == (name == "patched")
    assert seen["patched"] == seen["original"]
    torch.testing.assert_close(found["patched"], found["original"], rtol=1e-4, atol=1e-5)


def test_nothing_is_patched_while_hooks_of_all_modules_would_hide_what_it_does():
    model, _ = make("timm Swin")
    with hooks_of_all_modules(lambda module, args, output: None):
        report = patch_model(model)
    assert not report.patched and {row.why for row in report} == {
        "hooks of all modules are registered, with which it cannot be tried; patch it before them"
    }
    assert patch_model(model).patched

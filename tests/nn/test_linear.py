"""Which path a foreign linear layer takes."""

from __future__ import annotations

import torch
from torch import nn

from esvit_fast.nn import linear as fast
from esvit_fast.nn.linear import project


def taken(monkeypatch, module):
    """Whether `project` takes the fast path; its result is the module's anyway."""
    calls = []
    monkeypatch.setitem(project.__globals__, "linear", lambda *args: calls.append(args) or fast(*args))
    x = torch.randn(2, 3, 8, 16)
    torch.testing.assert_close(project(module, x), module(x))
    return bool(calls)


def test_a_plain_layer_takes_the_fast_path(monkeypatch):
    assert taken(monkeypatch, nn.Linear(16, 8))
    assert taken(monkeypatch, nn.Linear(16, 8, bias=False))


def test_a_hooked_layer_is_called(monkeypatch):
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        module = nn.Linear(16, 8)
        getattr(module, register)(lambda *args: None)
        assert not taken(monkeypatch, module)


def test_a_layer_with_a_forward_of_its_own_is_called(monkeypatch):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    module = nn.Linear(16, 8)
    module.forward = lambda x: x[..., :8]
    assert not taken(monkeypatch, Doubled(16, 8))
    assert not taken(monkeypatch, module)
    assert not taken(monkeypatch, nn.Sequential(nn.Linear(16, 8), nn.GELU()))

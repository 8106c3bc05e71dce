"""What becomes of foreign linear layers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from esvit_fast import ops
from esvit_fast.nn import patch_model, unpatch_model

from .models import TIMM, timm_model


@pytest.fixture
def model():
    model = timm_model(TIMM[0], depths=(1, 1))
    model.foreign = nn.Sequential(nn.LazyLinear(3), type("Mine", (nn.Linear,), {})(3, 3))
    return model


def plain(model):
    """Names of the layers whose forward is torch's."""
    layers = ((name, module) for name, module in model.named_modules() if type(module) is nn.Linear)
    return {name for name, module in layers if "forward" not in vars(module)}


def test_plain_layers_take_the_fast_path_and_no_others(model, monkeypatch):
    before, mine = plain(model), type(model.foreign[1])
    report = patch_model(model)
    assert plain(model) == set() and report.linears == len(before) > 8
    assert f"{len(before)} linear layers too on a CPU" in report.summary
    assert type(model.foreign[0]) is nn.LazyLinear and type(model.foreign[1]) is mine
    calls, fast = [], ops.linear
    monkeypatch.setattr(ops, "linear", lambda *args: calls.append(args) or fast(*args))
    fc = model.layers[0].blocks[0].mlp.fc1
    x = torch.randn(2, fc.in_features)
    torch.testing.assert_close(fc(x), nn.functional.linear(x, fc.weight, fc.bias))
    assert len(calls) == 1
    torch.testing.assert_close(fc.double()(x.double()), nn.functional.linear(x.double(), fc.weight, fc.bias))
    assert len(calls) == 1
    assert patch_model(model).linears == report.linears
    unpatch_model(model)
    assert plain(model) == before


def test_hooks_of_a_layer_are_called(model):
    patch_model(model)
    fc, seen = model.layers[0].blocks[0].mlp.fc1, []
    fc.register_forward_hook(lambda *args: seen.append(1))
    fc(torch.randn(2, fc.in_features))
    assert seen == [1]


def test_copies_are_patched_and_can_be_unpatched(model):
    del model.foreign
    patch_model(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert plain(other) == set()
        unpatch_model(other)
        assert plain(other) and plain(model) == set()


def test_a_model_without_window_attention_keeps_its_layers():
    model = nn.Sequential(nn.Linear(4, 4))
    assert patch_model(model).linears == 0 and type(model[0]) is nn.Linear

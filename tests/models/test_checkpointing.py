"""Blocks that are computed again in the backward pass: the same gradients, from less that is kept."""

import pytest
import torch

from benchmarks.measuring.memory import peak_bytes
from esvit_fast.models import create_model
from tests import seeds


def made(stages):
    torch.manual_seed(seeds.shifted(0))
    return create_model("swin_nano_w4", drop_path_rate=0.3, checkpoint_stages=stages)


def backward(model, images):
    model.zero_grad()
    torch.manual_seed(seeds.shifted(1))  # for the paths that are dropped
    model(images).square().mean().backward()


@pytest.mark.parametrize("stages", [(0,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_are_the_same_bits(stages, autocast):
    whole, again = made(()), made(stages)
    images = torch.randn(2, 3, 32, 40)
    for model in (whole, again):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            backward(model, images)
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
def test_every_stage_that_is_checkpointed_takes_less_memory():
    images = torch.randn(8, 3, 64, 64)
    models = map(made, ((), (0,), (0, 1), (0, 1, 2)))
    peaks = [peak_bytes(lambda model=model: backward(model, images), "cpu") for model in models]
    assert peaks == sorted(peaks, reverse=True) and peaks[-1] < 0.6 * peaks[0], peaks


def test_without_gradients_nothing_is_wrapped_and_a_stage_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr("esvit_fast.models.swin.checkpoint", None)
    with torch.no_grad():
        assert made((0, 1, 2))(torch.randn(1, 3, 32, 32)).shape == (1, 192)
    with pytest.raises(ValueError, match=r"checkpoint_stages=\(0, 3\) must name stages between 0 and 2"):
        made((0, 3))

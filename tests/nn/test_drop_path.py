"""Stochastic depth: timm's alone, and as a part of a batch what the whole batch would have had."""

import pytest
import timm.layers
import torch
from torch import nn

from esvit_fast.models import create_model, list_models
from esvit_fast.nn import DropPath, share_draws
from tests import seeds

VIEWS, BATCH = 3, 12


def part_of(x, images):
    """The rows of some images of [VIEWS * BATCH, ...], view by view."""
    return x.unflatten(0, (VIEWS, BATCH))[:, images].flatten(0, 1)


def test_alone_it_is_timms():
    ours, theirs, x = DropPath(0.3), timm.layers.DropPath(0.3), torch.randn(64, 5, 2)
    found = []
    for module in (ours, theirs):
        torch.manual_seed(seeds.shifted(1))
        found.append(module(x))
    assert torch.equal(*found) and not torch.equal(found[0], x)
    assert torch.equal(ours.eval()(x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parts", [2, 3, 12])
def test_parts_of_a_batch_drop_what_the_whole_drops(parts, dtype):
    net = nn.Sequential(DropPath(0.4), nn.Identity(), DropPath(0.2))
    x = torch.randn(VIEWS * BATCH, 4, dtype=dtype)

    def run(rows, images):
        share_draws(net, images, BATCH)
        torch.manual_seed(seeds.shifted(5))
        return net(rows)

    everything = torch.arange(BATCH)
    whole = run(x, everything)
    assert whole.dtype == dtype and (whole == 0).all(1).any() and (whole != 0).any()
    for images in everything.chunk(parts):
        assert torch.equal(run(part_of(x, images), images), part_of(whole, images))


@pytest.mark.parametrize("rate", [0.25, 0.9, 1.0])
def test_rows_are_dropped_at_the_rate_and_the_mean_stays(rate):
    module, x = DropPath(rate), torch.ones(40_000, 1)
    share_draws(module, torch.arange(10_000), 20_000)
    torch.manual_seed(seeds.shifted(0))
    y = module(x)
    assert (y == 0).float().mean().item() == pytest.approx(rate, abs=0.01)
    assert y.mean().item() == pytest.approx(1.0 if rate < 1 else 0.0, abs=0.03)
    assert y.isfinite().all()
    assert torch.equal(module.eval()(x), x)


@pytest.mark.parametrize("name", [name for name in list_models() if "nano" in name or "tiny_w7" in name])
def test_models_have_no_other(name):
    model = create_model(name, drop_path_rate=0.1)
    kinds = {type(m) for m in model.modules() if isinstance(m, timm.layers.DropPath)}
    assert kinds == {DropPath}

"""Batches that are copied to a GPU while it works: what arrives is what was loaded."""

from __future__ import annotations

import pytest
import torch

from esvit_fast.config import AugmentConfig
from esvit_fast.data import Augmenter, Batch, prefetch
from tests.ops.gpu import DEVICE

pytestmark = pytest.mark.gpu


def test_what_was_loaded_arrives_while_the_device_works():
    on_gpu, g = DEVICE != "cpu", torch.Generator().manual_seed(0)
    shapes = (2, 16, 3, 224, 224), (8, 16, 3, 96, 96)
    crops = [[torch.randint(256, shape, dtype=torch.uint8, generator=g) for shape in shapes] for _ in range(6)]
    given = [
        Batch([crop.pin_memory() if on_gpu else crop for crop in both], torch.rand(10, 16, 11), torch.tensor([n]), [])
        for n, both in enumerate(crops)
    ]
    device = torch.device("cuda", 0) if on_gpu else torch.device(DEVICE)
    work = torch.ones(2048 if on_gpu else 16, 1, device=device)
    arrived = []
    for expected, got in zip(given, prefetch(given, device), strict=True):
        for _ in range(50):
            work = work @ work.T @ work / work.square().sum()  # what the copies of the next batch run beside
        assert [crop.device.type for crop in got.crops] == [device.type] * 2
        assert got.draws is expected.draws and got.index is expected.index
        arrived.append([crop + 1 for crop in got.crops])  # still queued when the crops themselves are given back
    for found, both in zip(arrived, crops, strict=True):
        assert all(torch.equal(a.cpu() - 1, b) for a, b in zip(found, both, strict=True))
    assert work.isfinite().all()


def test_pillow_augments_what_has_arrived():
    g = torch.Generator().manual_seed(0)
    crops = [torch.randint(256, (2, 4, 3, 16, 16), dtype=torch.uint8, generator=g)]
    batch = Batch(crops, torch.rand(2, 4, 11, generator=g), torch.arange(4), [])
    augment = Augmenter(AugmentConfig(exact_pil=True), (16, 16))
    views = [augment(batch._replace(crops=[crop.to(place) for crop in crops]), place) for place in (DEVICE, "cpu")]
    assert all(
        a.device.type == DEVICE.split(":")[0] and torch.allclose(a.cpu(), b) for a, b in zip(*views, strict=True)
    )

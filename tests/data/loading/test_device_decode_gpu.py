"""JPEGs that a GPU decodes while it works: the crops of the CPU, whatever else is in a batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from PIL import Image

from esvit_fast.config import CropConfig, DataConfig
from esvit_fast.data import check_device_decode, make_loader, open_source, prefetch
from tests.ops.gpu import DEVICE

from ..stand_ins import damaged, jpeg, pixels

pytestmark = pytest.mark.gpu
PLACE = torch.device("cuda", 0) if DEVICE == "cuda" else torch.device(DEVICE)
CONFIG = DataConfig(decode="gpu", workers=0, crops=CropConfig(96, (0.4, 1.0), (48, 32), (4, 2), (0.05, 0.4)))
KINDS = [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 50}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Plain JPEGs of every kind, and what a worker or a GPU leaves to the CPU."""
    root = tmp_path_factory.mktemp("images")
    for number in range(37):
        image = Image.fromarray(pixels(number, 200 + 13 * number, 640 - 11 * number))
        data = jpeg(image.convert("L") if number % 7 == 6 else image, **{"quality": 90, **KINDS[number % 5]})
        (root / f"{number:02}.jpg").write_bytes(data)
    image = Image.fromarray(pixels(37, 300, 200))
    (root / "cmyk.jpg").write_bytes(jpeg(image.convert("CMYK")))
    (root / "damaged.jpg").write_bytes(damaged(jpeg(image)))
    image.save(root / "other.png")
    return str(root)


def loaded(folder, config=CONFIG, **ranks):
    """All batches of two epochs, on the device until they are all there."""
    loader = make_loader(open_source(folder), config, batch_size=8, seed=0, start_samples=0, total_samples=80, **ranks)
    if config.decode == "cpu":
        return [*loader]
    work, batches = torch.ones(2048 if PLACE.type == "cuda" else 16, 1, device=PLACE), []
    for batch in prefetch(loader, PLACE, decode=loader.decode):
        for _ in range(50):
            work = work @ work.T @ work / work.square().sum()  # beside which the next batch is decoded
        assert {crop.device.type for crop in batch.crops} == {PLACE.type}
        batches.append(batch._replace(crops=[crop + 0 for crop in batch.crops]))  # after that, and then given back
    assert work.isfinite().all()
    return [batch._replace(crops=[crop.cpu() for crop in batch.crops]) for batch in batches]


def test_crops_are_nearly_those_of_the_cpu(folder):
    reported = set()
    for ours, theirs in zip(loaded(folder), loaded(folder, dataclasses.replace(CONFIG, decode="cpu")), strict=True):
        assert torch.equal(ours.index, theirs.index) and torch.equal(ours.draws, theirs.draws)
        assert set(ours.failures) == set(theirs.failures)
        reported |= {path.rsplit("/")[-1] for _, path, _ in ours.failures}
        for found, expected in zip(ours.crops, theirs.crops, strict=True):
            # decoders differ at edges of colours, which not all interpolate
            assert (found.float() - expected.float()).abs().mean((2, 3, 4)).max() < 2
    assert reported == {"damaged.jpg"}


def test_crops_depend_on_no_other_image(folder):
    whole, *parts = loaded(folder), *(loaded(folder, rank=rank, world_size=2) for rank in range(2))
    for batch, *pieces in zip(whole, *parts, strict=True):
        assert torch.equal(batch.index, torch.cat([piece.index for piece in pieces]))
        for crops, *found in zip(batch.crops, *(piece.crops for piece in pieces), strict=True):
            assert torch.equal(crops, torch.cat(found, 1))


@pytest.mark.skipif(PLACE.type == "cpu", reason="a CPU is refused")
def test_the_decoder_is_there():
    check_device_decode(PLACE)

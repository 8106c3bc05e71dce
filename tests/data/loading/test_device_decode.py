"""Crops that the loader leaves to a device, whose decoder is stood in for by torchvision's on the CPU."""

from __future__ import annotations

import dataclasses
import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils import deterministic
from torch.utils.data._utils.pin_memory import pin_memory

from esvit_fast.config import CropConfig, DataConfig
from esvit_fast.data import CorruptImage, MultiCrop, TooManyCorrupt, make_loader, open_source, uniforms
from esvit_fast.data.decode import plain_jpeg_size
from esvit_fast.data.loading import device_decode
from esvit_fast.data.loading.device_decode import check_device_decode, decode_jpegs, resized, taps
from esvit_fast.data.views.draws import CROP

from ..stand_ins import ArraySource, damaged, jpeg, pixels

CPU = torch.device("cpu")
CONFIG = DataConfig(workers=0, crops=CropConfig(24, (0.4, 1.0), (16, 12), (2, 1), (0.05, 0.4)))


RGB = Image.fromarray(pixels(0, 40, 56))
PLAIN = {
    "baseline": jpeg(RGB),
    "4:4:4": jpeg(RGB, subsampling=0),
    "progressive": jpeg(RGB, progressive=True),
    "grey": jpeg(RGB.convert("L")),
    "turned by EXIF": jpeg(RGB, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    "damaged": damaged(jpeg(RGB)),
}
OTHERS = {
    "CMYK": jpeg(RGB.convert("CMYK")),
    "not YCbCr": jpeg(RGB, keep_rgb=True),
    "PNG": jpeg(RGB, "PNG"),
    "cut": PLAIN["baseline"][:-100],
    "bytes behind it": PLAIN["baseline"] + b"\n",
    "two pictures": jpeg(RGB, "MPO", save_all=True, append_images=[RGB]),
    "no header": b"\xff\xd8\xff\xd9",
    "empty": b"",
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_jpegs_are_known_by_their_header(kind):
    assert plain_jpeg_size(PLAIN[kind], "x") == (40, 56)
    with pytest.raises(CorruptImage, match=r"has 56x40 pixels, more than max_megapixels=0.002"):
        plain_jpeg_size(PLAIN[kind], "x", 0.002)


@pytest.mark.parametrize("kind", OTHERS)
def test_all_else_is_left_to_the_loader(kind):
    assert plain_jpeg_size(OTHERS[kind], "x") is None


def size_of(number: int) -> tuple[int, int]:
    """Height and width of an image of the folder."""
    return 30 + 7 * number % 41, 25 + 11 * number % 67


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 images of many sizes: plain JPEGs, others, and some that cannot be read."""
    root = tmp_path_factory.mktemp("images")
    for number in range(18):
        image = Image.fromarray(pixels(number, *size_of(number)))
        options = {"progressive": number % 3 == 0, "quality": 60 + number, "subsampling": number % 3}
        (root / f"{number:02}.jpg").write_bytes(jpeg(image.convert("L") if number == 7 else image, **options))
    for name in ("CMYK", "PNG", "cut", "empty"):
        (root / f"other {name}.jpg").write_bytes(OTHERS[name])
    for number in range(2):
        (root / f"damaged {number}.jpg").write_bytes(damaged(jpeg(pixels(number, 60, 50))))
    return root


def loaded(folder, where, *, decode=decode_jpegs, workers=0, start=0, total=48, **ranks):
    """All batches, finished."""
    config, source = dataclasses.replace(CONFIG, decode=where, workers=workers), open_source(str(folder))
    loader = make_loader(source, config, batch_size=8, seed=3, start_samples=start, total_samples=total, **ranks)
    if where == "cpu":
        return [*loader]
    loader.decode.decode = decode
    return [batch if batch.jpegs is None else loader.decode(batch, CPU) for batch in loader]


def same(a, b):
    facts = torch.equal(a.draws, b.draws) and torch.equal(a.index, b.index) and set(a.failures) == set(b.failures)
    return facts and all(torch.equal(x, y) for x, y in zip(a.crops, b.crops, strict=True))


def near(a, b):
    """Of one shape, and at most 2 levels apart, few of them."""
    difference = (a.float() - b.float()).abs()
    return a.shape == b.shape and difference.max() <= 2 and difference.mean() < 0.05


def test_batches_are_those_of_the_cpu(folder):
    seen, failed = set(), set()
    for ours, theirs in zip(loaded(folder, "gpu"), loaded(folder, "cpu"), strict=True):
        assert ours.jpegs is None and theirs.jpegs is None
        assert torch.equal(ours.index, theirs.index) and torch.equal(ours.draws, theirs.draws)
        assert set(ours.failures) == set(theirs.failures)
        for found, expected in zip(ours.crops, theirs.crops, strict=True):
            assert near(found, expected) and found.dtype == torch.uint8
        seen.update(ours.index.tolist())
        failed.update(index for index, *_ in ours.failures)
    paths = [open_source(str(folder)).path(index) for index in sorted(failed)]
    assert [path.rsplit("/")[-1] for path in paths] == [
        "damaged 0.jpg", "damaged 1.jpg", "other cut.jpg", "other empty.jpg"
    ]  # fmt: skip
    assert len(seen) == 20


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")
def test_workers_ranks_and_resumes_change_nothing(folder):
    whole = loaded(folder, "gpu")
    assert all(same(a, b) for a, b in zip(whole, loaded(folder, "gpu", workers=2), strict=True))
    assert all(same(a, b) for a, b in zip(whole[2:], loaded(folder, "gpu", start=16), strict=True))
    parts = [loaded(folder, "gpu", rank=rank, world_size=2) for rank in range(2)]
    for batch, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(batch.index, torch.cat([piece.index for piece in pieces]))
        assert torch.equal(batch.draws, torch.cat([piece.draws for piece in pieces], 1))
        for crops, *found in zip(batch.crops, *(piece.crops for piece in pieces), strict=True):
            assert torch.equal(crops, torch.cat(found, 1))


def test_workers_leave_plain_jpegs_as_they_are(folder):
    source = open_source(str(folder))
    config = dataclasses.replace(CONFIG, decode="gpu")
    plain = {index for index in range(len(source)) if not source.path(index).rsplit("/")[-1].startswith("other")}
    for batch in make_loader(source, config, batch_size=8, seed=0, start_samples=0, total_samples=24):
        index, jpegs = batch.index.tolist(), batch.jpegs
        assert [index[row] for row in jpegs.rows] == [number for number in index if number in plain]
        for number, data, size in zip(jpegs.rows, jpegs.data.split(jpegs.lengths.tolist()), jpegs.sizes, strict=True):
            encoded = source.encoded(index[number])
            assert data.numpy().tobytes() == encoded and (*size.tolist(),) == Image.open(io.BytesIO(encoded)).size[::-1]
        assert len(batch.crops) == 3 * (len(jpegs.rows) < 8)


def test_what_is_refused_is_loaded_by_the_cpu(folder, caplog):
    sizes, calls = {size_of(number) for number in (2, 7, 11)}, []

    def refusing(encoded, device):
        calls.append(len(encoded))
        images = decode_jpegs(encoded, device)
        if any((*image.shape[1:],) in sizes for image in images):
            raise RuntimeError("Error while decoding JPEG images: 6\nmore")
        return images

    with caplog.at_level(logging.WARNING):
        ours = loaded(folder, "gpu", decode=refusing)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1 and lines[0].startswith("data.decode=gpu: ") and "\n" not in lines[0]
    assert lines[0].endswith(
        " is refused by the GPU (Error while decoding JPEG images: 6); the CPU decodes such images"
    )
    assert 1 in calls and 8 in calls
    source, refused = open_source(str(folder)), 0
    for batch, plain, theirs in zip(ours, loaded(folder, "gpu"), loaded(folder, "cpu"), strict=True):
        for row, index in enumerate(batch.index.tolist()):
            by_cpu = source.image(index).shape[:2] in sizes
            expected, refused = (theirs if by_cpu else plain), refused + by_cpu
            assert all(torch.equal(a[:, row], b[:, row]) for a, b in zip(batch.crops, expected.crops, strict=True))
    assert refused > 2


def test_an_image_of_another_size_than_its_header_says_is_refused(folder):
    def cut(encoded, device):
        return [image[:, 1:] for image in decode_jpegs(encoded, device)]

    assert all(same(a, b) for a, b in zip(loaded(folder, "gpu", decode=cut), loaded(folder, "cpu"), strict=True))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_device_that_fails_is_no_damaged_image(folder, error):
    def full(encoded, device):
        raise error("CUDA error")

    with pytest.raises(error):
        loaded(folder, "gpu", decode=full)


def test_nothing_readable_stops(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(PLAIN["damaged"])
    with pytest.raises(TooManyCorrupt, match="64 images in a row cannot be read"):
        loaded(tmp_path, "gpu", total=8)


def test_few_images_are_decoded_at_a_time(folder, monkeypatch):
    expected, held = loaded(folder, "gpu"), []

    def noted(encoded, device):
        images = decode_jpegs(encoded, device)
        held.append(sum(image.numel() for image in images))
        return images

    monkeypatch.setattr(device_decode, "DECODED_BYTES", 10_000)
    assert all(same(a, b) for a, b in zip(loaded(folder, "gpu", decode=noted), expected, strict=True))
    assert max(held) <= 3 * 70 * 91 and sum(size > 10_000 for size in held) and len(held) > 2 * len(expected)


def test_pinned_batches_are_the_same(folder, monkeypatch):
    """Torch makes lists of tuples when it pins what a worker sends."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor.clone())
    source, config = open_source(str(folder)), dataclasses.replace(CONFIG, decode="gpu")
    loader = make_loader(source, config, batch_size=8, seed=3, start_samples=0, total_samples=8)
    (batch,) = loader
    assert same(loader.decode(pin_memory(batch), CPU), loaded(folder, "gpu", total=8)[0])


@pytest.mark.parametrize("size", [(375, 500), (64, 300), (300, 64), (9, 7), (1, 1)], ids=str)
@pytest.mark.parametrize("kind", ["smooth", "extremes"])
def test_crops_of_a_device_are_those_of_the_cpu(size, kind, monkeypatch):
    image = pixels(1, *size)
    if kind == "extremes":
        image = 255 * np.random.default_rng(0).integers(0, 2, (*size, 3), dtype=np.uint8)
    crop, draws = MultiCrop(CropConfig(48, (0.4, 1.0), (16, 24), (3, 2))), uniforms(0, 0, 0, 7)[:, CROP]
    boxes = torch.from_numpy(crop.boxes(*size, draws))
    index, weight = taps(boxes[None], crop.sizes, CPU)
    x = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    found, expected = resized(x, index[0], weight[0], crop.groups), crop(image, draws)
    assert all(near(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    index, weight = taps(torch.stack([boxes, 7 * boxes]), crop.sizes, CPU)  # beside a larger image
    again = resized(x, index[0], weight[0], crop.groups)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    monkeypatch.setattr(device_decode, "_BAND", 3 * size[1])  # three rows at a time
    again = resized(x, index[0], weight[0], crop.groups)
    assert all(near(ours, theirs) for ours, theirs in zip(again, expected, strict=True))


def test_freshly_filled_memory_does_not_come_after_the_decoder(monkeypatch):
    seen, settings = [], []
    monkeypatch.setattr("torchvision.io.decode_jpeg", lambda *_: seen.append(deterministic.fill_uninitialized_memory))
    for filled in (True, False):
        monkeypatch.setattr(deterministic, "fill_uninitialized_memory", filled)
        decode_jpegs([], CPU)
        settings.append(deterministic.fill_uninitialized_memory)
    assert seen == [False, False] and settings == [True, False]


def test_errors_name_the_remedy(monkeypatch):
    with pytest.raises(
        ValueError, match=r"^data.decode=gpu needs an NVIDIA GPU, but .* on cpu; pass --data.decode cpu$"
    ):
        check_device_decode(CPU)

    def missing(*_):
        raise RuntimeError("decode_jpegs_cuda: built without nvJPEG\nmore")

    monkeypatch.setattr(device_decode, "decode_jpegs", missing)
    with pytest.raises(
        ValueError, match=r"on cuda:0 \(.* without nvJPEG\); pass --data.decode cpu, or install"
    ) as caught:
        check_device_decode(torch.device("cuda", 0))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"data.source='arrays' gives pixels; pass --data.decode cpu"):
        make_loader(
            ArraySource(8), dataclasses.replace(CONFIG, decode="gpu"),
            batch_size=8, seed=0, start_samples=0, total_samples=8,
        )  # fmt: skip

from __future__ import annotations

import contextlib
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from esvit_fast.data import CorruptImage, decode_image
from esvit_fast.data import decode as module
from esvit_fast.data.decode import format_and_mode

from .stand_ins import pixels

RGB = pixels(0, 40, 56)


def encode(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_their_pixels(kind):
    data = encode(RGB, kind, **({"lossless": True} if kind == "WEBP" else {}))
    decoded = decode_image(data, "x")
    assert decoded.dtype == np.uint8 and np.array_equal(decoded, RGB)


@pytest.mark.parametrize("options", [{}, {"quality": 30}, {"subsampling": 0}, {"progressive": True}])
def test_jpeg_equals_pillow_with_and_without_simplejpeg(options, monkeypatch):
    data = encode(RGB, "JPEG", **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode_image(data, "x"), expected)
    monkeypatch.setattr(module, "simplejpeg", None)
    assert np.array_equal(decode_image(data, "x"), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_grey_is_repeated(kind):
    data = encode(Image.fromarray(RGB).convert("L"), kind)
    grey = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(decode_image(data, "x"), np.repeat(grey[:, :, None], 3, 2))


def test_alpha_is_dropped():
    image = Image.fromarray(RGB)
    image.putalpha(Image.fromarray(pixels(1, 40, 56)).convert("L"))
    assert np.array_equal(decode_image(encode(image, "PNG"), "x"), RGB)


@pytest.mark.parametrize(("mode", "kind"), [("P", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("1", "PNG"), ("LA", "PNG")])
def test_other_modes_become_rgb(mode, kind):
    data = encode(Image.fromarray(RGB).convert(mode), kind)
    assert np.array_equal(decode_image(data, "x"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_sixteen_bit_grey_keeps_its_high_byte():
    deep = (np.arange(40 * 56, dtype=np.uint16) * 29).reshape(40, 56)
    decoded = decode_image(encode(deep, "PNG"), "x")
    assert np.array_equal(decoded[:, :, 1], (deep >> 8).astype(np.uint8))


def test_float_pixels_are_refused():
    with pytest.raises(CorruptImage, match="32-bit grey"):
        decode_image(encode(np.zeros((4, 4), np.float32), "TIFF"), "x")


def test_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encode(RGB, "JPEG", exif=exif.tobytes()), "x").shape == RGB.shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_size_is_refused_before_decoding(kind, monkeypatch):
    data = encode(np.zeros((100, 101, 3), np.uint8), kind)
    monkeypatch.setattr(module, "_to_rgb", lambda *_: pytest.fail("decoded"))
    if module.simplejpeg is not None:
        monkeypatch.setattr(module.simplejpeg, "decode_jpeg", lambda *_: pytest.fail("decoded"))
    with pytest.raises(CorruptImage, match=r"big\.png: has 101x100 pixels, more than max_megapixels=0.01; shrink"):
        decode_image(data, "big.png", max_megapixels=0.01)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("side", [9500, 20000])
def test_decompression_bombs_are_refused(side):
    data = encode(Image.new("1", (side, side)), "PNG")
    assert len(data) < 100_000
    with pytest.raises(CorruptImage):
        decode_image(data, "bomb.png")


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"<!DOCTYPE html><html></html>", b"\x89PNG\r\n\x1a\n", b"GIF89a", bytes(99)]
)
def test_other_bytes_are_corrupt(data):
    with pytest.raises(CorruptImage) as caught:
        decode_image(data, "bad.jpg")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("bad.jpg: ")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_truncated_files_are_corrupt(kind):
    data = encode(RGB, kind)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(CorruptImage):
            decode_image(data[: int(len(data) * share)], "x")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF"])
def test_damage_gives_pixels_or_corrupt_image_and_nothing_else(kind):
    data = encode(RGB, kind)
    generator = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 4):
            damaged[place] = generator.integers(0, 256)
        with contextlib.suppress(CorruptImage):
            assert decode_image(bytes(damaged), "x", 1.0).shape[2] == 3


def test_corrupt_image_crosses_processes():
    error = pickle.loads(pickle.dumps(CorruptImage("a.jpg", "is empty")))
    assert (error.path, error.why, str(error)) == ("a.jpg", "is empty", "a.jpg: is empty")


def test_format_and_mode_of_what_pillow_calls_otherwise_or_refuses(monkeypatch):
    image, several, grey, one = Image.fromarray(pixels(0)), io.BytesIO(), io.BytesIO(), io.BytesIO()
    image.save(several, "MPO", save_all=True, append_images=[image])  # as cameras and telephones write .jpg
    image.convert("L").save(grey, "PNG"), image.save(one, "JPEG")
    with Image.open(several) as opened:
        assert opened.format == "MPO"
    found = [format_and_mode(file.getvalue()) for file in (several, grey)]
    assert found == [("JPEG", "RGB"), ("PNG", "L")]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert format_and_mode(one.getvalue()) == ("JPEG", "RGB")

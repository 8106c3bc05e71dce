from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

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


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of uint16 [H, W, 1 to 4], chunk by chunk."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    color = (0, 4, 2, 6)[values.shape[2] - 1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff(values: np.ndarray, order: str = "<", packed: bool = False) -> bytes:
    """A TIFF of one strip, uint8, uint16 or float32 [H, W, bands]."""
    height, width, bands = values.shape
    body = values.astype(values.dtype.newbyteorder(order)).tobytes()
    body = zlib.compress(body) if packed else body
    each = values.dtype.itemsize * 8
    extra = struct.pack(f"{order}{bands + bands}H", *[each] * bands, *[0] * bands)
    bits = (258, 3, bands, 8 + len(body)) if bands > 2 else (258, 3, 1, each)
    tags = [(256, 4, 1, width), (257, 4, 1, height), bits, (259, 3, 1, 8 if packed else 1)]
    tags += [(262, 3, 1, 2 if bands >= 3 else 1), (273, 4, 1, 8), (277, 3, 1, bands), (278, 4, 1, height)]
    tags += [(279, 4, 1, len(body)), (284, 3, 1, 1), (339, 3, 1, 3 if values.dtype.kind == "f" else 1)]
    left = 16 if order == ">" else 0  # a single short lies in the first two of its four bytes
    tags = [(tag, kind, n, value << (left if (kind, n) == (3, 1) else 0)) for tag, kind, n, value in tags]
    entries = b"".join(struct.pack(f"{order}HHII", *tag) for tag in tags)
    mark = b"II" if order == "<" else b"MM"
    start = struct.pack(f"{order}2sHI", mark, 42, 8 + len(body) + len(extra))
    return start + body + extra + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


DEEP = {
    **{f"PNG of {n}": (n, deep_png) for n in (1, 2, 3, 4)},
    **{f"TIFF {o}{p}": (3, partial(tiff, order=o, packed=p)) for o in "<>" for p in (False, True)},
    "grey TIFF": (1, tiff),
}


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", DEEP)
def test_values_in_sixteen_bits_are_read_by_the_bits_that_they_use(kind, bits):
    channels, write = DEEP[kind]
    values = np.random.default_rng(bits).integers(0, 1 << bits, (9, 11, channels)).astype(np.uint16)
    values[0, 0] = (1 << bits) - 1
    if channels in (2, 4):
        values[:, :, -1] = 65535  # alpha says nothing of the depth
    data, colors = write(values), 3 if channels > 2 else 1
    expected = (values[:, :, :colors].astype(int) >> (bits - 8)).astype(np.uint8)
    assert np.array_equal(decode_image(data, "x"), np.broadcast_to(expected, (9, 11, 3)))
    name, mode = format_and_mode(data)
    assert name in kind and mode.endswith(f";16, {bits} bits used")


def test_all_black_in_sixteen_bits_stays_black():
    assert not decode_image(deep_png(np.zeros((3, 4, 3), np.uint16)), "x").any()


@pytest.mark.parametrize("place", ["before", "after"])
def test_metadata_never_keeps_a_png_from_being_read(place):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "x" * (2 << 20), zip=True)
    data = encode(RGB, "PNG", pnginfo=info)
    bad = struct.pack(">I", 4) + b"tEXt" + b"a\0bc" + bytes(4)  # a wrong checksum
    if place == "after":
        start = data.index(b"iTXt") - 4
        text = data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]
        data = data.replace(text, b"")
        data = data[:-12] + text + bad + data[-12:]
    else:
        data = data[:33] + bad + data[33:]
    assert np.array_equal(decode_image(data, "x"), RGB)
    assert format_and_mode(data) == ("PNG", "RGB")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.zeros((4, 5, 5), np.uint8), "is a TIFF of 5 bands of 8 bits, not grey or RGB"),
        (np.zeros((4, 5, 7), np.uint16), "is a TIFF of 7 bands of 16 bits, not grey or RGB"),
        (np.zeros((4, 5, 3), np.float32), "is a TIFF of 3 floating-point bands of 32 bits, not grey or RGB"),
    ],
)
def test_a_tiff_that_is_no_picture_says_what_it_holds(values, why):
    with pytest.raises(CorruptImage, match=why) as caught:
        decode_image(tiff(values), "five.tif")
    assert "known format" not in str(caught.value) and "\n" not in str(caught.value)


def planar(values: np.ndarray) -> bytes:
    """A TIFF of uint8 or uint16 [H, W, 3] that has one band after the other."""
    height, width, bands = values.shape
    body = np.moveaxis(values, 2, 0).astype(values.dtype.newbyteorder("<")).tobytes()
    size, each = len(body) // bands, values.dtype.itemsize * 8
    at = 8 + len(body)
    extra = struct.pack("<3H3I3I", *[each] * 3, 8, 8 + size, 8 + 2 * size, *[size] * 3)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, at), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 3, at + 6), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 3, at + 18), (284, 3, 1, 2)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = struct.pack("<2sHI", b"II", 42, at + len(extra))
    return start + body + extra + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_tiff_of_one_band_after_the_other_is_read_or_refused():
    assert np.array_equal(decode_image(planar(RGB), "x"), RGB)
    with pytest.raises(CorruptImage, match=r"TIFF of 3 bands of 16 bits, one after the other, .*INTERLEAVE=PIXEL"):
        decode_image(planar(RGB.astype(np.uint16) << 8 | 77), "x")


@pytest.mark.parametrize(
    ("data", "kind"), [(b"\x89PNG\r\n\x1a\n", "PNG"), (b"II*\0" + bytes(9), "TIFF"), (b"GIF89a", "GIF")]
)
def test_damaged_headers_name_their_format(data, kind):
    with pytest.raises(CorruptImage, match=f"begins as {kind} but cannot be read"):
        decode_image(data, "x")


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

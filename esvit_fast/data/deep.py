"""Images of 16 bits a channel: their values, and how many of the bits those use."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from PIL import Image

_DEPTHS = (8, 10, 12, 14, 16)
_OTHER_ORDER = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B"}
"""Names that Pillow's decoders have for the orders of two bytes; N is this machine's, which is taken for L."""


def deep_values(image: Image.Image) -> np.ndarray | None:
    """Values of an image that was opened from bytes and not yet loaded, uint16 [H, W, 1 or 3]; None without 16 bits.

    Pillow has a mode for 16-bit grey, but gives only the high bytes of colors. The low ones are what its decoder gives
    when it is told the other order of bytes. Alpha is left out.
    """
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[:, :, None]
    file, tiles = getattr(image, "fp", None), getattr(image, "tile", None)
    raw = _raw_mode(tiles[0]) if tiles else ""
    if ";16" not in raw or image.mode not in ("RGB", "RGBA", "RGBX") or not isinstance(file, io.BytesIO):
        return None
    if raw.startswith("LA"):  # four bytes a pixel, which are read as if they were red, green, blue and alpha
        four = _read_as(file, image, lambda name: "RGBA").astype(np.uint16)
        return four[:, :, :1] << 8 | four[:, :, 1:2]
    low = _read_as(file, image, lambda name: name[:-4] + _OTHER_ORDER[name[-4:]])
    return np.asarray(image)[:, :, :3].astype(np.uint16) << 8 | low[:, :, :3]


def used_bits(values: np.ndarray) -> int:
    """The fewest of 8, 10, 12, 14 and 16 bits, the usual depths of sensors, that hold all values."""
    return next(bits for bits in _DEPTHS if int(values.max(initial=0)) < 1 << bits)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """The high eight of the used bits, uint8."""
    return (values >> (used_bits(values) - 8)).astype(np.uint8)


def mode_name(mode: str, values: np.ndarray) -> str:
    """What `data check` calls the mode of an image of 16 bits, as in I;16, 12 bits used."""
    return f"{mode.split(';')[0]};16, {used_bits(values)} bits used"


def remarks(modes: Mapping[str, int]) -> Iterator[str]:
    """What is to be said of images that do not use their 16 bits, from the numbers of images by mode."""
    depths: dict[str, list[int]] = {}
    for mode in modes:
        if mode.endswith("bits used"):
            depths.setdefault(mode.partition(",")[0], []).append(int(mode.split()[1]))
    for mode, found in depths.items():
        if len(found) > 1:
            several = " and at ".join(map(str, sorted(found)))
            yield (
                f"{mode} images are read at {several} bits, each by its own largest value, so that brightness differs "
                "between them by powers of two; save all at one depth, or with 8 bits"
            )
    for mode, count in modes.items():
        bits = int(mode.split()[1]) if mode.endswith("bits used") else 16
        if bits < 16:
            yield (
                f"{count:,} {'image has' if count == 1 else 'images have'} 16 bits a channel but no value above "
                f"{(1 << bits) - 1:,}: read as {bits}-bit, or they would be nearly black"
            )


def _raw_mode(tile: tuple) -> str:
    """The name by which a tile of an image tells the decoder how its pixels lie in the file."""
    arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    return next((name for name in arguments if isinstance(name, str)), "")


def _read_as(file: io.BytesIO, image: Image.Image, rename: Callable[[str], str]) -> np.ndarray:
    """The pixels that Pillow decodes where raw modes have other names."""

    def renamed(tile: tuple) -> tuple:
        raw, arguments = _raw_mode(tile), tile[3]
        new = tuple(rename(a) if a == raw else a for a in arguments) if isinstance(arguments, tuple) else rename(raw)
        return getattr(type(tile), "_make", tuple)((*tile[:3], new))  # plain tuples before Pillow 11

    with Image.open(io.BytesIO(file.getvalue()), formats=(image.format,)) as again:
        again.tile = [renamed(tile) for tile in again.tile]
        return np.asarray(again)

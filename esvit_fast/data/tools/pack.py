"""A source as .tar shards in the convention of WebDataset: in its order, with its labels, smaller if asked for."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from ...errors import UserError
from ..decode import CorruptImage, format_and_mode
from ..loading.loader import CorruptionLog
from ..sources.encoded import Source, encoded_and_pixels
from ..sources.fingerprint import changes, fingerprint
from ..sources.shards import CARD
from ..views.multicrop import resize
from .each import each

logger = logging.getLogger(__name__)

_EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}


class PackError(UserError):
    """Shards cannot be written; the message says where, why and the remedy."""


class PackSettings(NamedTuple):
    """How images become shards."""

    shard_size: float = 256.0
    """MiB from which on a shard is closed."""
    short_side: int = 0
    """Pixels to which the short side of larger images is reduced; 0: every image keeps its bytes."""
    quality: int = 95
    """Of the JPEGs that reduced images become, 1 to 100."""


class _Packed(NamedTuple):
    index: int
    label: int
    extension: str = ""
    data: bytes = b""
    failure: tuple[int, str, str] | None = None


def pack(
    source: Source,
    out: Path,
    settings: PackSettings,
    *,
    workers: int = -1,
    max_corrupt_share: float = 0.01,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Write a source as shards 000000.tar, 000001.tar, … and return their card, `shards.json`.

    Every image is decoded once, so that what cannot be read is left out, and listed on the card. Images that are not
    encoded become PNG. A shard appears when it is whole; called again, packing goes on behind the last one. The same
    source and settings give the same bytes, whatever the workers and interruptions.

    Raises:
        PackError: the folder holds something else, or cannot be written: the disk is full, say.
        TooManyCorrupt: more than max_corrupt_share of the images cannot be read: two or more, unless it is 0.
    """
    card = _begin(source, out, settings)
    if card["complete"]:
        return card
    corrupt = CorruptionLog(len(source), max_corrupt_share, warn=False)
    corrupt.failed.update((entry["index"], entry["path"]) for entry in card["skipped"])
    start = card["shards"][-1]["end"] if card["shards"] else 0
    names, skipped, shard = _names(source), [], None
    packing = each(partial(_packed, settings), source, range(start, len(source)), workers)
    try:
        for item in packing:
            if item.failure is not None:
                logger.warning("unreadable image left out: %s: %s", *item.failure[1:])
                corrupt.record([item.failure])
                skipped.append(dict(zip(("index", "path", "why"), item.failure, strict=True)))
            else:
                shard = shard or _Shard(out, len(card["shards"]))
                shard.add(names[item.index], item)
                if shard.bytes >= settings.shard_size * 2**20:
                    _close(card, out, shard, item.index + 1, skipped)
                    skipped, shard = [], None
            progress(item.index + 1)
        if shard is not None:
            _close(card, out, shard, len(source), skipped)
            skipped, shard = [], None
        card["skipped"] += skipped
        card["complete"] = True
        _write_card(card, out)
    except OSError as error:
        raise PackError(
            f"out={str(out)!r} cannot be written: {error.strerror or error} after {len(card['shards']):,} shards; make "
            "room and give the same command again, it goes on behind them"
        ) from error
    finally:
        if shard is not None:
            shard.discard()
    return card


def _begin(source: Source, out: Path, settings: PackSettings) -> dict[str, Any]:
    """The card of what was packed before, or a new one."""
    of_source = fingerprint(source)
    try:
        out.mkdir(parents=True, exist_ok=True)
        there = sorted(path.name for path in out.iterdir() if path.name != f".tmp-{CARD}")
        if not there:
            made = {"settings": settings._asdict(), "classes": list(source.classes), "source": of_source}
            card = {"complete": False, "images": 0, "shards": [], "skipped": [], **made}
            _write_card(card, out)  # a shard without a card would be somebody else's
            return card
        card = json.loads((out / CARD).read_bytes()) if CARD in there else {}
        for unfinished in out.glob(".tmp-*") if "source" in card else ():
            unfinished.unlink()
    except OSError as error:
        raise PackError(f"out={str(out)!r} cannot be used: {error.strerror or error}; choose another folder") from error
    except ValueError:
        card = {}
    if "source" not in card:
        raise PackError(f"out={str(out)!r} already holds {there[0]!r}; choose a new or empty folder")
    if card["settings"] != settings._asdict():
        was = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in card["settings"].items())
        raise PackError(f"out={str(out)!r} was begun with {was}; pass the same, or choose another folder")
    if changed := changes(card["source"], of_source):
        raise PackError(f"out={str(out)!r} was begun with other images: {changed}; choose another folder")
    return card


def _names(source: Source) -> list[str]:
    """A name for each image: its own path without extension, or its number; none twice."""
    paths = getattr(source, "paths", None) or [""] * len(source)
    names, seen = [], set()
    for number, path in enumerate(paths):
        folder, slash, base = path.rpartition("/")
        inside = "/".join(filter(None, (part.lstrip(".") for part in folder.split("/"))))  # what is hidden is not read
        stem = base.rpartition(".")[0] or base
        name = f"{inside}{slash and inside and '/'}{stem.replace('.', '_')}" if stem else f"{number:09d}"
        while name in seen:
            name = f"{name}_{number:09d}"
        seen.add(name)
        names.append(name)
    return names


def _packed(settings: PackSettings, source: Source, index: int) -> _Packed:
    """An image as it goes into a shard."""
    try:
        data, pixels = encoded_and_pixels(source, index)
    except CorruptImage as error:
        return _Packed(index, -1, failure=(index, error.path, error.why))
    height, width = pixels.shape[:2]
    label, buffer = source.label(index), io.BytesIO()
    if 0 < settings.short_side < (short := min(height, width)):
        size = [max(1, round(side * settings.short_side / short)) for side in (height, width)]
        smaller = resize(torch.from_numpy(pixels).permute(2, 0, 1)[None], *size)[0].permute(1, 2, 0)
        Image.fromarray(smaller.numpy()).save(buffer, "JPEG", quality=settings.quality)
        return _Packed(index, label, "jpg", buffer.getvalue())
    if data is None:
        Image.fromarray(pixels).save(buffer, "PNG")
        return _Packed(index, label, "png", buffer.getvalue())
    kind, _ = format_and_mode(data)
    return _Packed(index, label, _EXTENSIONS.get(kind, kind.lower()), data)


class _Shard:
    """A .tar that is being written, under a name that nobody reads."""

    def __init__(self, out: Path, number: int):
        self.out, self.name, self.bytes, self.images = out, f"{number:06d}.tar", 0, 0
        self.temp = out / f".tmp-{self.name}"
        self.file = self.temp.open("wb")
        self.tar = tarfile.open(fileobj=self.file, mode="w")  # noqa: SIM115

    def add(self, name: str, item: _Packed) -> None:
        self._member(f"{name}.{item.extension}", item.data)
        if item.label >= 0:
            self._member(f"{name}.cls", str(item.label).encode())
        self.images += 1

    def _member(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)  # time, owner and mode are constants: the same images are the same bytes
        info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data))
        self.bytes = self.tar.offset

    def finish(self) -> int:
        """Put the shard in its place; returns its size in bytes."""
        self.tar.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.temp.replace(self.out / self.name)
        return (self.out / self.name).stat().st_size

    def discard(self) -> None:
        """Leave nothing of it."""
        with suppress(OSError):  # what could not be written cannot be flushed either
            self.file.close()
        self.temp.unlink(missing_ok=True)


def _close(card: dict[str, Any], out: Path, shard: _Shard, end: int, skipped: list[dict[str, Any]]) -> None:
    size = shard.finish()
    card["shards"].append({"file": shard.name, "bytes": size, "images": shard.images, "end": end})
    card["skipped"] += skipped
    card["images"] += shard.images
    _write_card(card, out)


def _write_card(card: dict[str, Any], out: Path) -> None:
    temp = out / f".tmp-{CARD}"
    with temp.open("w") as file:
        file.write(json.dumps(card, indent=1))
        file.flush()
        os.fsync(file.fileno())
    temp.replace(out / CARD)

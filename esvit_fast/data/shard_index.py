"""What lies where in a .tar: read once from its headers, and kept beside large ones."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .encoded import Strings, is_image_path

WORTH = 64 * 2**20
"""Bytes of shards whose headers have not been read, above which what was read is kept on disk."""
FOLDER = ".esvit_fast_index"
"""Where it is kept: beside the shards, or where that cannot be written, in the user's cache."""

_FORMAT = "1"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
_BLOCK = 512

logger = logging.getLogger(__name__)


class ShardError(Exception):
    """A .tar that cannot be used: `file`, and as text why, and what to do about it."""

    def __init__(self, file: Path, why: str):
        super().__init__(why)
        self.file = file


class Index(NamedTuple):
    """The images of a .tar in their order."""

    names: Strings
    places: np.ndarray
    """int64 [N, 2]: offset and bytes of each."""
    labels: np.ndarray
    """int32 [N]: which of `texts`; -1: none."""
    texts: list[str]
    """The labels that .cls or .json files of the shard give, each once."""


def indices_of(files: Sequence[Path]) -> list[Index]:
    """The index of each shard, in order; those that are not kept, or are of another size or time, are read.

    Raises:
        ShardError: a shard is empty, damaged, compressed or ends early.
        OSError: one cannot be read.
    """
    found = [_load(file) for file in files]
    new = [number for number, index in enumerate(found) if index is None]
    keep = sum(files[number].stat().st_size for number in new) > WORTH
    if keep:
        logger.warning("reading the headers of %d shards of %s, once", len(new), files[new[0]].parent)

    def read(number: int) -> Index:
        facts = _facts(files[number])  # before, or one that is replaced meanwhile would pass for the one that was read
        index = read_index(files[number])
        if keep:
            _save(files[number], index, facts)
        return index

    with ThreadPoolExecutor(min(8, max(1, len(new)))) as pool:  # on a network, a header is a wait
        for number, index in zip(new, pool.map(read, new), strict=True):
            found[number] = index
    return found  # type: ignore[return-value]


def read_index(file: Path) -> Index:
    """Read the headers of a .tar, and its labels: of `key.cls`, or the field `label` of `key.json`.

    A key is what stands before the first dot of a file's name, as in WebDataset, or before the last.
    """
    with file.open("rb") as opened:
        start = opened.read(6)
    if kind := next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None):
        raise ShardError(file, f"is compressed ({kind}), so its images cannot be read in random order; decompress it")
    if not start:
        raise ShardError(file, "is empty, 0 bytes; fetch or pack it again, or leave it out")
    names: list[str] = []
    places: list[tuple[int, int]] = []
    labels: dict[str, str] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # it would keep every header in memory
                if not member.isreg() or member.issparse():
                    continue
                name = member.name.removeprefix("./").lstrip("/")
                if is_image_path(name):
                    names.append(name)
                    places.append((member.offset_data, member.size))
                elif name.endswith((".cls", ".json")):
                    _note(labels, file, name, archive.extractfile(member).read())
            archive.fileobj.seek(archive.offset)
            end = archive.fileobj.read(_BLOCK)
            if end != bytes(_BLOCK):  # tarfile takes any end for the end
                what = "ends early" if len(end) < _BLOCK else f"is damaged at byte {archive.offset:,}"
                raise ShardError(file, f"{what}; fetch or pack it again")
    except (tarfile.ReadError, ValueError) as error:  # the latter of sizes beyond 63 bits
        early = str(error) == "unexpected end of data"
        raise ShardError(
            file, f"{'ends early' if early else f'is damaged ({error})'}; fetch or pack it again"
        ) from None
    texts = sorted(set(labels.values()))
    number = {text: n for n, text in enumerate(texts)}
    given = (labels.get(name.rpartition(".")[0], labels.get(_key(name))) for name in names)
    return Index(
        Strings(names),
        np.array(places, dtype=np.int64).reshape(-1, 2),
        np.array([-1 if text is None else number[text] for text in given], dtype=np.int32),
        texts,
    )


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _note(labels: dict[str, str], file: Path, name: str, data: bytes) -> None:
    """Enter the label that a file of a sample gives; that of a .cls wins."""
    stem, _, kind = name.rpartition(".")
    try:
        if kind == "cls":
            labels[stem] = data.decode().strip()
        else:
            tree = json.loads(data)
            label = tree.get("label") if isinstance(tree, dict) else None
            if isinstance(label, str | int) and not isinstance(label, bool):
                labels.setdefault(stem, str(label))
    except ValueError:
        raise ShardError(
            file, f"holds {name}, which is not {'UTF-8 text' if kind == 'cls' else 'JSON'}; repair it"
        ) from None


def _homes(file: Path) -> list[Path]:
    name = hashlib.sha256(os.fsencode(file.absolute())).hexdigest()[:32]
    caches = os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache")
    cache = next(filter(os.path.isabs, caches), None)  # none has who has no home
    inside = [Path(cache, "esvit_fast", FOLDER[1:], f"{name}.safetensors")] if cache else []
    return [file.parent / FOLDER / f"{file.name}.safetensors", *inside]


def _facts(file: Path) -> dict[str, str]:
    stat = file.stat()
    return {"format": _FORMAT, "bytes": str(stat.st_size), "mtime_ns": str(stat.st_mtime_ns)}


def _load(file: Path) -> Index | None:
    for home in filter(Path.is_file, _homes(file)):
        try:
            with safe_open(home, "np") as kept:
                metadata = kept.metadata() or {}
                if _facts(file).items() <= metadata.items():
                    arrays = {name: kept.get_tensor(name) for name in ("buffer", "ends", "places", "labels")}
                    names = Strings.of(arrays["buffer"].tobytes(), arrays["ends"])
                    return Index(names, arrays["places"], arrays["labels"], json.loads(metadata["texts"]))
        except (OSError, SafetensorError, ValueError, KeyError):  # cut short or of another make: read the shard
            continue
    return None


def _save(file: Path, index: Index, facts: dict[str, str]) -> None:
    buffer = np.frombuffer(index.names.buffer, dtype=np.uint8)
    tensors = {"buffer": buffer, "ends": index.names.ends, "places": index.places, "labels": index.labels}
    for home in _homes(file):
        temp = home.with_name(f".tmp-{os.getpid()}-{home.name}")
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temp, {**facts, "texts": json.dumps(index.texts)})
            temp.replace(home)
            return
        except (OSError, SafetensorError):
            with suppress(OSError):
                temp.unlink()
    logger.warning("the index of %s cannot be kept: neither %s nor the user's cache can be written", file, FOLDER)

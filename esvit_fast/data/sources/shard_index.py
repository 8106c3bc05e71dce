"""What lies where in a .tar: read once from its headers, and kept beside large ones."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .account import LeftOut, merged
from .content import HEAD, sort_out
from .encoded import Strings
from .samples import key_of
from .tar_members import ShardError, head_reader, members_of

WORTH = 64 * 2**20
"""Bytes of shards whose headers have not been read, above which what was read is kept on disk."""
FOLDER = ".esvit_fast_index"
"""Where it is kept: beside the shards, or where that cannot be written, in the user's cache."""

_FORMAT = "2"
_LABELS = (".cls", ".json")

logger = logging.getLogger(__name__)


class Index(NamedTuple):
    """The images of a .tar in their order."""

    names: Strings
    places: np.ndarray
    """int64 [N, 2]: offset and bytes of each."""
    labels: np.ndarray
    """int32 [N]: which of `texts`; -1: none."""
    texts: list[str]
    """The labels that .cls or .json files of the shard give, each once."""
    left_out: list[LeftOut]
    """What is in the shard and no image."""


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
    labels: dict[str, str] = {}
    with file.open("rb") as opened:
        members, entries = members_of(file, opened)
        beside = [name for name in members if name.endswith(_LABELS)]
        stems = {stem for name in members if not name.endswith(_LABELS) for stem in _stems(name)} if beside else set()
        for name in beside:
            place = members[name]
            opened.seek(place.offset)
            if name.rpartition(".")[0] in stems and _note(labels, file, name, opened.read(place.size)):
                del members[name]
        names, places = list(members), list(members.values())
        rows, others = sort_out(names, head_reader(opened, places, HEAD))
    names, places = [names[row] for row in rows], [places[row] for row in rows]
    texts = sorted(set(labels.values()))
    number = {text: n for n, text in enumerate(texts)}
    given = (next((labels[stem] for stem in _stems(name) if stem in labels), None) for name in names)
    return Index(
        Strings(names),
        np.array(places, dtype=np.int64).reshape(-1, 2),
        np.array([-1 if text is None else number[text] for text in given], dtype=np.int32),
        texts,
        merged([*entries, *others]),
    )


def _stems(name: str) -> tuple[str, str]:
    """What a file with the label of an image is called before its extension."""
    return name.rpartition(".")[0], key_of(name)


def _note(labels: dict[str, str], file: Path, name: str, data: bytes) -> bool:
    """Enter the label that a file of a sample gives, if it gives one; that of a .cls wins."""
    stem, _, kind = name.rpartition(".")
    try:
        if kind == "cls":
            labels[stem] = data.decode().strip()
            return True
        tree = json.loads(data)
        label = tree.get("label") if isinstance(tree, dict) else None
        if isinstance(label, str | int) and not isinstance(label, bool):
            labels.setdefault(stem, str(label))
            return True
        return False
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
                    kept_out = [LeftOut(why, n, tuple(first)) for why, n, first in json.loads(metadata["left_out"])]
                    texts = json.loads(metadata["texts"])
                    return Index(names, arrays["places"], arrays["labels"], texts, kept_out)
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
            said = {"texts": json.dumps(index.texts), "left_out": json.dumps(index.left_out)}
            save_file(tensors, temp, {**facts, **said})
            temp.replace(home)
            return
        except (OSError, SafetensorError):
            with suppress(OSError):
                temp.unlink()
    logger.warning("the index of %s cannot be kept: neither %s nor the user's cache can be written", file, FOLDER)

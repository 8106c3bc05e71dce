"""Which images a run began with: enough of them, in every checkpoint, to say what has changed since."""

from __future__ import annotations

import hashlib
from typing import Any

from .encoded import Source

RUNS = 1024
"""Most runs into which images that lie in no shards are cut, so that a fingerprint has at most about 50 KB."""

Fingerprint = dict[str, Any]
"""Plain JSON: `sha256` of the names and labels of all images in order, `images`, and `shards` or `runs`. Shards are
[file name, images, digest of its images]; runs are [first image, its number, digest of all images before it]."""


def fingerprint(source: Source) -> Fingerprint:
    """The names of all images in order, and their labels if those are known without reading images.

    Names in folders, lists, archives and shards are relative, so that it stays the same where they are moved.
    """
    names = getattr(source, "paths", None) or [source.path(index) for index in range(len(source))]
    marks = getattr(source, "marks", None)
    marks = getattr(source, "labels", None) if marks is None else marks
    labels = marks.tolist() if marks is not None else [""] * len(source)
    shards: list[tuple[str, int]] = getattr(source, "shards", [])
    size = 1  # a power of two: runs of different sets begin at the same numbers
    while len(source) > RUNS * size:
        size *= 2
    runs = [(names[at], min(size, len(source) - at)) for at in range(0, len(source), size)]
    whole, parts, start = hashlib.sha256(), [], 0
    for name, count in shards or runs:
        rows = range(start, start + count)
        data = "".join(f"{names[row]}\0{labels[row]}\0" for row in rows).encode("utf-8", "surrogateescape")
        digest = hashlib.sha256(data) if shards else whole
        parts.append([_printable(name), count if shards else start, digest.hexdigest()[:12]])
        whole.update(data)
        start += count
    return {"sha256": whole.hexdigest(), "images": len(source), "shards" if shards else "runs": parts}


def changes(then: Fingerprint | str, now: Fingerprint | str, when: tuple[str, str] = ("then", "now")) -> str | None:
    """In words, in what the images of two fingerprints differ; None if they are the same.

    Either may be the bare hash that older checkpoints hold, which tells only whether.

    Args:
        when: what the two are called.
    """
    if _hash(then) == _hash(now):
        return None
    if isinstance(then, str) or isinstance(now, str):
        return "their names or labels differ"
    said = f"{_count(then['images'], 'image')} {when[0]}, {now['images']:,} {when[1]}"
    if "shards" in then and "shards" in now:
        return f"{said}; {_of_shards(then['shards'], now['shards'], when)}"
    if "shards" in then or "shards" in now:
        return f"{said}; they were {'' if 'shards' in then else 'not '}in shards"
    return f"{said}; {_of_runs(then, now, when)}"


def _of_shards(then: list, now: list, when: tuple[str, str]) -> str:
    before, after = ({name: rest for name, *rest in shards} for shards in (then, now))
    changed = [
        f"{name}: {count:,} {when[0]}, {after[name][0]:,} {when[1]}"
        for name, (count, digest) in before.items()
        if after.get(name, [count, digest]) != [count, digest]
    ]
    kinds = {
        "missing": [name for name in before if name not in after],
        "new": [name for name in after if name not in before],
        "with other images": changed,
    }
    said = [f"{_count(len(names), 'shard')} {what} ({_some(names)})" for what, names in kinds.items() if names]
    return ", ".join(said) or "the shards are in another order"


def _of_runs(then: Fingerprint, now: Fingerprint, when: tuple[str, str]) -> str:
    before, after = (
        {start: (name, digest) for name, start, digest in [*of["runs"], ["", of["images"], of["sha256"][:12]]]}
        for of in (then, now)
    )
    low, high = 0, None
    for start in sorted(before.keys() & after.keys()):
        if before[start][1] != after[start][1]:
            high = start
            break
        low = start
    was, is_ = before[low][0], after[low][0]
    if not was or not is_:
        return f"those from number {low:,} on are {'missing' if was else 'new'}, {(was or is_)!r} first"
    names = f"{was!r} {when[0]}, {is_!r} {when[1]}" if was != is_ else f"{was!r}"
    if high == low + 1:
        return f"the first that differs is number {low:,}, {names}" + (", with another label" if was == is_ else "")
    where = f"among the {high - low:,} from number {low:,} on" if high else f"at or behind number {low:,}"
    return f"the first that differs is {where}, {names}"


def _hash(of: Fingerprint | str) -> str:
    return of if isinstance(of, str) else of["sha256"]


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _printable(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")

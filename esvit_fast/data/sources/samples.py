"""One image of each sample: masks and previews that share its name are no images to learn from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import repeat

from ..layout.split_names import is_companion_word, is_images_word
from .account import FIRST, LeftOut
from .content import EXTENSIONS, extension

_ASIDE = 3
_FIELD = re.compile(r"[^\W\d][\w-]*")


def key_of(name: str) -> str:
    """What stands before the first dot of a file's name, with its folder, as in WebDataset."""
    folder, slash, base = name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def sample_and_field(name: str) -> tuple[str, str]:
    """The sample that a file belongs to, and which of its files it is: `jpg`, or `mask.png`.

    Numbers between dots are part of the sample's name, as in `frame.0001.jpg`.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, rest = base.partition(".")
    while "." in rest and not _FIELD.fullmatch(rest.partition(".")[0]):
        first, _, rest = rest.partition(".")
        stem = f"{stem}.{first}"
    return f"{folder}{slash}{stem}", rest.lower()


def one_a_sample(
    names: Sequence[str], of: Sequence[int] | None = None, *, sure: bool
) -> tuple[list[int], list[LeftOut]]:
    """The rows of the images to take, rising, and what was left out, with a name of each field.

    A field that is a bare extension goes before others, then what is called an image, a .jpg before a .png; what is
    called a mask or preview is taken only where no sample has anything else.

    Args:
        of: the shard that each lies in, as a sample lies in one; None for all in the same.
        sure: the names are those of samples; else only masks and previews beside a bare extension are left out.
    """
    stems = {(shard, name.rpartition(".")[0]) for shard, name in zip(of or repeat(0), names, strict=False)}
    if len(stems) == len(names) and not any("." in stem.rpartition("/")[2] for _, stem in stems):
        return list(range(len(names))), []  # names with one extension each, no two of a sample
    parts = [sample_and_field(name) for name in names]
    if of is not None:
        parts = [(f"{shard}/{sample}", field) for shard, (sample, field) in zip(of, parts, strict=True)]
    best: dict[str, tuple[tuple[int, int], int]] = {}
    for row, (sample, field) in enumerate(parts):
        rank = _rank(field), row
        best[sample] = min(best.get(sample, rank), rank)
    main = min((rank for (rank, _), _ in best.values()), default=0)
    out: dict[str, str] = {}
    rows = []
    for row, (sample, field) in enumerate(parts):
        (rank, _), taken = best[sample]
        if row == taken:
            keep = rank < _ASIDE or main == _ASIDE
        else:
            keep = not sure and not (_rank(field)[0] == _ASIDE and rank == 0)
        if keep:
            rows.append(row)
        else:
            out.setdefault(field, names[row])
    used = Counter(parts[row][1] for row in rows).most_common(1)
    count, first = len(names) - len(rows), tuple(out.values())[:FIRST]
    return rows, [LeftOut(f"one image a sample, its .{used[0][0]}", count, first)] if count else []


def _rank(field: str) -> tuple[int, int]:
    """0 for a bare extension, 1 for what is called an image, 3 for a mask or preview, else 2; and the extension."""
    kind = extension(field if "." in field else f".{field}")
    place = EXTENSIONS.index(kind) if kind in EXTENSIONS else len(EXTENSIONS)
    names = field.split(".")[:-1]
    aside = any(is_companion_word(word) for name in names for word in re.findall(r"[^\W\d_]+", name))
    called = any(is_images_word(name) or name in ("input", "original") for name in names)
    return (_ASIDE if aside else 1 if called else 2 if names else 0), place

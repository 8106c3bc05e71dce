"""Whether folders beside each other hold the same under two names: photos, and the masks that belong to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .split_names import is_word_of_masks, tokens

FOLDERS = 16
"""Folders below each of the two that are looked into."""
NAMES = 256
"""Names that are looked for, of each of these."""

Parts = tuple[str, ...]
Key = tuple[str, ...]


class Beside:
    """The files in folders, for comparisons."""

    def __init__(self, folders: Sequence[Parts], of: np.ndarray, paths: Sequence[str]):
        """Folders, the number of the one in which each file lies, int64 [N], and the files' paths."""
        self._numbers: dict[Parts, int] = {parts: number for number, parts in enumerate(folders)}
        self._below: dict[Parts, list[Parts]] = {}
        for parts in folders:
            for depth in range(1, len(parts) + 1):
                found = self._below.setdefault(parts[:depth], [])
                if len(found) < FOLDERS:
                    found.append(parts[depth:])
        self._paths, self._of = paths, of
        self._order: tuple[np.ndarray, np.ndarray] | None = None

    def same(self, one: Parts, other: Parts) -> tuple[float, bool]:
        """The share of the files of one folder that have a file of the same name and place in the other, and whether
        that tells something: numbers, and one word with numbers, may be the same by chance.

        What the two folders are called, and words for masks, make no difference in names.
        """
        looked, found = 0, set()
        for rest in self._below.get(one, []):
            keys = {_key(name, one[-1]) for name in self._names((*one, *rest), NAMES)}
            looked += len(keys)
            there = self._names((*other, *rest))
            found |= {(rest, key) for key in keys.intersection(_key(path, other[-1]) for path in there)}
        words = {tuple(part for part in key if not part.isdigit()) for _, key in found}
        return len(found) / max(looked, 1), len(words) > 1

    def _names(self, folder: Parts, most: int | None = None) -> list[str]:
        number = self._numbers.get(folder)
        if number is None:
            return []
        if self._order is None:
            self._order = np.argsort(self._of, kind="stable"), np.cumsum(np.bincount(self._of))
        rows, ends = self._order
        start = int(ends[number - 1]) if number else 0
        return [self._paths[row] for row in rows[start : int(ends[number])][:most].tolist()]


def _key(path: str, folder: str) -> Key:
    stem = path.replace("\\", "/").rpartition("/")[2].partition(".")[0]
    own = set(tokens(folder))
    every = tokens(stem)
    return tuple(token for token in every if token not in own and not is_word_of_masks(token)) or tuple(every)

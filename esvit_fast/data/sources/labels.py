"""Classes by number: those that occur, in order, whatever numbers or names a source gives them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

UNLABELLED = -1

_NO_LABEL = {"", str(UNLABELLED)}
_MARKED = 10**6


@dataclass(frozen=True)
class Classed:
    """The classes of some images."""

    labels: np.ndarray
    """int64 [N]: which of the classes, -1 for none."""
    classes: Sequence[str] = ()
    marks: np.ndarray | None = None
    """int64 [N]: what fingerprints hold instead of labels, where earlier versions numbered them otherwise."""

    def of(self, rows: np.ndarray) -> Classed:
        """Those of some images; classes keep their numbers, and are none where no image has one."""
        labels = self.labels[rows]
        classes = self.classes if (labels >= 0).any() else ()
        return Classed(labels, classes, None if self.marks is None else self.marks[rows])


def without_labels(count: int) -> Classed:
    """Of images that have no class."""
    return Classed(np.full(count, UNLABELLED, dtype=np.int64))


def by_text(texts: Sequence[str]) -> Classed:
    """Labels that are written: names, or numbers from 0 on; "" and "-1" for none. Classes are those that occur.

    Numbers are in their order and names in that of their letters; how Unicode spells an accent makes no difference.
    """
    given = {text: unicodedata.normalize("NFC", text) for text in set(texts) - _NO_LABEL}
    is_number = all(text.isdecimal() for text in given)
    if is_number:
        given = {text: text.lstrip("0") or "0" for text in given}
        classes = sorted(set(given.values()), key=lambda text: (len(text), text))
    else:
        classes = sorted(set(given.values()))
    position = {name: label for label, name in enumerate(classes)}
    number = {text: position[name] for text, name in given.items()} | dict.fromkeys(_NO_LABEL, UNLABELLED)
    labels = np.fromiter(map(number.__getitem__, texts), np.int64, len(texts))
    marks = None
    if is_number and given and int(classes[-1]) < _MARKED:
        marks = np.array([*map(int, classes), UNLABELLED], dtype=np.int64)[labels]
    return Classed(labels, classes, marks)


def by_number(values: np.ndarray) -> Classed:
    """Labels that are whole numbers from 0 on, -1 for none; classes are those that occur.

    Args:
        values: int64 [N].
    """
    has = values >= 0
    occurring = np.unique(values[has])
    labels = np.full(len(values), UNLABELLED, dtype=np.int64)
    labels[has] = np.searchsorted(occurring, values[has])
    return Classed(labels, [str(value) for value in occurring.tolist()], values)


def named(values: np.ndarray, names: Sequence[str]) -> Classed:
    """Labels that number given classes, int64 [N], all below their count."""
    return Classed(values, tuple(names))


def by_first_folder(paths: Sequence[str]) -> np.ndarray:
    """The first folder of each relative path by its place among all, -1 outside of any, int64 [N]."""
    tops = [path.partition("/")[0] if "/" in path else "" for path in paths]
    number = {name: label for label, name in enumerate(sorted(set(tops) - {""}))}
    return np.array([number.get(top, UNLABELLED) for top in tops], dtype=np.int64)

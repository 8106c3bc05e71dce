"""What looks like a mistake in a layout that has been understood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..sources.labels import UNLABELLED
from .split_names import kind_of, word_in

_NO_DIGITS = str.maketrans("0123456789", "_" * 10)


def classes_said(count: int) -> str:
    """A count of classes, in words."""
    return f"{count:,} class{'es' * (count != 1)}"


def splits_in_names(paths: Sequence[str]) -> list[str]:
    """Whether all images are called after a split, and are not divided all the same."""
    found = set()
    for path in paths:
        name = path.rpartition("/")[2].rpartition("\\")[2]
        word = word_in((name.rpartition(".")[0] or name).translate(_NO_DIGITS))  # few different names are left
        if not word:
            return []
        found.add(kind_of(word))
    said = "names of files say both training and testing, which divides nothing: put them in folders"
    return [said] if len(found) == 2 else []


def doubts(names: list[str], labels: np.ndarray, splits: dict[str, np.ndarray]) -> list[str]:
    """What looks like a mistake among classes."""
    doubts = []
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(name.casefold().strip(), []).append(name)
    if alike := [found for found in folded.values() if len(found) > 1]:
        doubts.append(f"classes {alike[0][0]!r} and {alike[0][1]!r} differ in case or blanks only")
    if splits.keys() == {"train", "test"}:
        known = set(labels[splits["train"]].tolist())
        if strange := sorted(set(labels[splits["test"]].tolist()) - known - {UNLABELLED}):
            doubts.append(
                f"{classes_said(len(strange))} of test images without a training image, {names[strange[0]]!r} first"
            )
    return doubts

"""Numbers of classes as they once were, for fingerprints: runs that began then go on with the same images."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from .labels import UNLABELLED, by_first_folder

SPLIT_FOLDERS = ("train", "test", "val", "validation")
"""Folders that were splits."""


def marks_of(
    paths: Sequence[str], rows: np.ndarray, more: Collection[str] = (), around: bool = False
) -> np.ndarray | None:
    """The first folder of some images by its place among all, which is that below their split if they lie in one.

    Args:
        paths: of all images, those that are left out among them.
        rows: int64 [N], the images.
        more: further folders that lie in folders of splits.
        around: whether folders around everything are none.

    Returns:
        int64 [N], -1 outside of any folder; None for splits of names that were none then.
    """
    if around:
        paths = _without_around(paths)
    tops = {_top(paths[row]) for row in rows.tolist()}
    if len(tops) > 1 or not tops <= set(SPLIT_FOLDERS):
        is_all = tops == {_top(path) for path in paths}
        return by_first_folder([paths[row] for row in rows.tolist()]) if is_all else None
    inside = {_top(path.partition("/")[2]) for path in paths if _top(path) in SPLIT_FOLDERS}
    number = {name: label for label, name in enumerate(sorted((inside | set(more)) - {""}))}
    found = (number.get(_top(paths[row].partition("/")[2]), UNLABELLED) for row in rows.tolist())
    return np.fromiter(found, np.int64, len(rows))


def _top(path: str) -> str:
    return path.partition("/")[0] if "/" in path else ""


def _without_around(paths: Sequence[str]) -> Sequence[str]:
    while len(tops := set(map(_top, paths))) == 1 and tops.isdisjoint({"", *SPLIT_FOLDERS}):
        paths = [path.partition("/")[2] for path in paths]
    return paths

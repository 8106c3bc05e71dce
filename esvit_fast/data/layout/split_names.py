"""Names of folders and files that mean a split, or what belongs to images without being images to learn from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

WORDS = {
    "train": ("train", "training", "trainval", "trn"),
    "test": ("test", "tests", "testing", "tst"),
    "val": ("val", "valid", "validation"),
    "dev": ("dev", "development"),
    "eval": ("eval", "evaluation"),
    "holdout": ("holdout", "heldout"),
}
"""Splits by their shortest name, and how they are spelled; all but the first are for testing, by preference."""
SPLITS = ("train", "test")
"""What a word of `WORDS` is for."""
CANONICAL = {spelling: word for word, spellings in WORDS.items() for spelling in spellings}
"""The word of `WORDS` for each spelling, by preference."""

SPLIT_COLUMNS = ("split", "set", "subset", "partition", "fold", "usage")
"""Columns of tables that name the split of a row."""

_SURE = {"test", "val", "validation"}
# what may stand beside the word: train_set, images-train, train2017, train-00000-of-00005
_FILLERS = {"set", "sets", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "data"}
_FILLERS |= {"dataset", "split", "partial", "frames", "jpg", "jpeg", "png", "files", "of"}
_GLUED = ("images", "image", "imgs", "img", "data", "set")
_IMAGES = {"image", "images", "img", "imgs", "jpegimages", "rgb", "picture", "pictures", "photo", "photos", "frames"}
_COMPANIONS = {"annotation", "annotations", "label", "labels", "mask", "masks", "seg", "segs", "segmentation", "gt"}
_COMPANIONS |= {"segmentations", "groundtruth", "groundtruths", "trimap", "trimaps", "depth", "depths", "preview"}
_COMPANIONS |= {"previews", "thumb", "thumbs", "thumbnail", "thumbnails"}
_OF_MASKS = {"class", "classes", "object", "objects", "instance", "instances", "semantic", "panoptic"}
_OF_MASKS |= {"fine", "coarse", "ids", "color", "polygons"}


def is_companion_word(word: str) -> bool:
    """Whether a word is one for what belongs to an image: mask, preview, …"""
    return word.casefold() in _COMPANIONS


@lru_cache(1 << 16)
def is_images_word(name: str) -> bool:
    """Whether a name says that there are images, and nothing else."""
    tokens = _tokens(name)
    return bool(tokens) and set(tokens) <= _IMAGES


def kind_of(word: str) -> str:
    """The split, train or test, that a word of `WORDS` means."""
    return "train" if word == "train" else "test"


def words_for(split: str) -> list[str]:
    """The words of `WORDS` that mean a split, train or test, by preference."""
    return [word for word in WORDS if kind_of(word) == split]


@lru_cache(1 << 16)
def split_word(name: str) -> str:
    """The word of `WORDS` that is all a name says; "" if it says something else."""
    words, others = _words(name)
    return "" if others or {"train", "test"} <= words else next((word for word in WORDS if word in words), "")


def split_of(value: str) -> str:
    """The word of `WORDS` that a value in a column of splits means (PublicTest), or the value itself."""
    return split_word(value) or word_in(value) or value


def told_by_column(column: str, values: Sequence[str]) -> tuple[list[str] | None, list[str]]:
    """The split of each row by a column of `split_of` values, None if that divides nothing; and what is to be said."""
    found = set(values)
    tests = sorted(value for value in found & WORDS.keys() if kind_of(value) == "test")
    others = sorted(found - set(tests))
    if has_both(found) or found == {"train"}:
        return list(values), []
    if tests and others:
        said = f"column {column} has no value for training: rows that are not {' or '.join(tests)} are taken for it"
        return [value if value in tests else "train" for value in values], [said]
    if len(found) < 2:
        return None, []
    what = "none of them for training" if tests else "no splits"
    return None, [f"column {column} has {min(found)!r} and {len(found) - 1} more, {what}"]


def told_by_names(names: Sequence[str]) -> tuple[list[str] | None, list[str]]:
    """The split of each file by names of which none says training, None if they divide nothing; and what is to be said.

    Beside shard-0000, both test-0000 and shard-test-0000 are for testing; test-tube-0000 may be something else.
    """
    tests = {name: word for name in names if kind_of(word := word_in(name)) == "test" and word}
    rests = {tuple(_words(name)[1]) for name in names if name not in tests}
    fitting = {name for name in tests if split_word(name) or tuple(_words(name)[1]) in rests}
    if not tests or not rests:
        return None, []
    if any(not _SURE.isdisjoint(_tokens(name)) for name in fitting):
        said = f"files that are not called like {min(fitting)!r} are taken for training; rename those that are none"
        return [tests[name] if name in fitting else "train" for name in names], [said]
    said = f"file {min(tests)!r} may be test images by its name, but is trained on like those beside it"
    return None, [f"{said}; call those train if it is"]


def has_both(names: Iterable[str]) -> bool:
    """Whether some of these names mean training and others testing."""
    return {kind_of(word) for word in map(split_word, set(names)) if word} == {"train", "test"}


@lru_cache(1 << 16)
def is_sure(name: str) -> bool:
    """Whether a name means a split for testing even where none for training stands beside it."""
    return bool(split_word(name)) and not set(_tokens(name)).isdisjoint(_SURE)


@lru_cache(1 << 16)
def word_in(name: str) -> str:
    """The word of `WORDS` in a name that may say more, as imagenet1k-train-0001 does; "" if there is none."""
    words, _ = _words(name)
    return "" if {"train", "test"} <= words else next((word for word in WORDS if word in words), "")


def divided_names(names: Collection[str]) -> dict[str, tuple[str, str]]:
    """Of names that differ by a word that divides them (cifar_train, cifar_test): what is the same, and the word."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if (word := word_in(name)) and not split_word(name):
            found.setdefault(" ".join(_words(name)[1]), {})[name] = word
    return {
        name: (rest, word)
        for rest, group in found.items()
        if {"train", "test"} == {kind_of(word) for word in group.values()}
        for name, word in group.items()
    }


def is_word_of_masks(word: str) -> bool:
    """Whether a word says that something belongs to an image, or what does."""
    return word in _COMPANIONS or word in _OF_MASKS


def companions(names: Collection[str]) -> dict[str, list[str]]:
    """Of names beside each other, those that may hold what belongs to the images of others, and these: masks/ of
    images/, or else of whatever there is, and cat_mask/ of cat/.
    """
    said = {name: tokens(name) for name in names}
    rests = {
        name: sorted(token for token in of if not is_word_of_masks(token))
        for name, of in said.items()
        if not _COMPANIONS.isdisjoint(of)
    }
    others = sorted(name for name in names if name not in rests)
    images = list(filter(is_images_word, others))
    bases: dict[tuple[str, ...], list[str]] = {}
    for name, of in said.items():
        bases.setdefault(tuple(sorted(of)), []).append(name)
    found = {}
    for name, rest in rests.items():
        alike = bases.get(tuple(rest), []) if rest else []
        is_bare = all(token.isdigit() for token in rest)
        found[name] = alike or (images if is_bare and images else [] if rest else others)
    return {name: of for name, of in found.items() if of}


def tokens(name: str) -> list[str]:
    """The words and numbers of a name, in lower case."""
    return re.findall(r"[^\W\d_]+|\d+", _spaced(name))


def _tokens(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", _spaced(name))


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()  # TrainImages


def _words(name: str) -> tuple[set[str], list[str]]:
    """The words of `WORDS` in a name, and what else it says."""
    words, others = set(), []
    for token in _tokens(name):
        short = token
        for glued in _GLUED:
            for part in (token.removeprefix(glued), token.removesuffix(glued)):
                short = part if part in CANONICAL else short
        if short in CANONICAL:
            words.add(CANONICAL[short])
        elif token not in _FILLERS:
            others.append(token)
    return words, others

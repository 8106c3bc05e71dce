"""Which folders are splits: by their names, where others of the other kind lie beside them, or as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...errors import UserError
from .split_names import WORDS, has_both, is_sure, kind_of, split_word, word_in

Parts = tuple[str, ...]


class LayoutError(UserError):
    """Nobody can say what is a split there and what a class; the message says what is in the way."""


@dataclass
class Folder:
    """A folder with images directly in it: what is around, above and below its split, and why it is left out."""

    parts: Parts
    images: int
    unused: str = ""
    word: str = ""
    above: Parts = ()
    below: Parts = ()
    label: str = ""


@dataclass
class Said:
    """What is to be said of a layout: how it was understood, and what may be meant otherwise."""

    sentences: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def children(folders: Sequence[Folder]) -> dict[Parts, set[str]]:
    """The names of the folders in each folder."""
    found: dict[Parts, set[str]] = {}
    for folder in folders:
        for depth, name in enumerate(folder.parts):
            found.setdefault(folder.parts[:depth], set()).add(name)
    return found


def divide(folders: list[Folder], lone: bool, said: Said) -> None:
    """Find the split of each folder, if there are any."""
    tops = {folder.parts[0] if folder.parts else "" for folder in folders}
    words = {name: word for name in tops if (word := split_word(name))}
    depth = depth_of(folders)
    if depth is not None:
        inside = sum(f.images for f in folders if len(f.parts) > depth and split_word(f.parts[depth]))
        outside = sum(folder.images for folder in folders) - inside
        if depth and outside > inside:
            found = next(f for f in folders if len(f.parts) > depth and split_word(f.parts[depth]))
            raise LayoutError(
                f"{'/'.join(found.parts[: depth + 1])}/ looks like a split, but {outside:,} images lie in none and "
                f"only {inside:,} in one; give the folder of the splits alone, or rename what is none"
            )
        _split_at(folders, depth, {}, said)
    elif words and {kind_of(word) for word in words.values()} == {"train"}:
        tests = {name: word for name in tops if kind_of(word := word_in(name)) == "test" and word}
        deep = any(len(f.parts) > 1 and f.parts[0] in words for f in folders)
        if deep or not tops - words.keys() - tests.keys() - {""}:
            _split_at(folders, 0, tests, said)  # PublicTest beside Training, test_hidden beside train
        else:
            said.sentences.append(f"{'/ and '.join(sorted(words))}/ a class like those beside it")
            _undivided(folders, said)
    elif words and not tops - words.keys():
        _split_at(folders, 0, {}, said)
    elif sure := sorted(filter(is_sure, words)):
        _undivided([f for f in folders if not f.parts or f.parts[0] not in sure], said)
        for folder in folders:
            if folder.parts and folder.parts[0] in sure:
                folder.word, folder.below = words[folder.parts[0]], folder.parts[1:]
            else:
                folder.word = "train"
        names = "/ and ".join(sure)
        said.remarks.append(f"what lies outside of {names}/ is taken for training; rename {names}/ if it is a class")
    else:
        _undivided(folders, said)


def depth_of(folders: list[Folder]) -> int | None:
    """How deep splits lie: where a folder holds both kinds, or folders that hold nothing else do together."""
    kinds: dict[int, set[str]] = {}
    for parent, names in children(folders).items():
        words = [split_word(name) for name in names]
        if all(words) or has_both(names):
            kinds.setdefault(len(parent), set()).update(kind_of(word) for word in words if word)
    return min((depth for depth, found in kinds.items() if len(found) == 2), default=None)


def _split_at(folders: list[Folder], depth: int, tests: dict[str, str], said: Said) -> None:
    """Divide folders by their names at a depth, of which these are for testing although they say more."""
    for folder in folders:
        name = folder.parts[depth] if len(folder.parts) > depth else ""
        if word := split_word(name) or tests.get(name, ""):
            folder.word, folder.above, folder.below = word, folder.parts[:depth], folder.parts[depth + 1 :]
        else:
            folder.word, folder.unused = "", "in none of the splits"
    for word in sorted({folder.word for folder in folders if folder.word}):
        _splits_within([folder for folder in folders if folder.word == word], word, said)


def _splits_within(inside: list[Folder], word: str, said: Said) -> None:
    """train/train/, and train/val/ beside it; but what lies in test/train/ is no more for training than test/ is."""
    while inside and all(folder.below and split_word(folder.below[0]) for folder in inside):
        kinds = {kind_of(split_word(folder.below[0])) for folder in inside}
        taken = kinds == {kind_of(word)} or (word == "train" and len(kinds) == 2)
        if word == "train" and not taken:
            name = inside[0].below[0]
            said.remarks.append(f"what lies in {name}/ inside of train/ is taken for training; move it if it is not")
        for folder in inside:
            folder.word, folder.below = split_word(folder.below[0]) if taken else word, folder.below[1:]
        inside = [folder for folder in inside if folder.word == word]


def as_told(folders: list[Folder], said: Said) -> None:
    """Divide folders by the words that they have; their names tell no more than classes."""
    for folder in folders:
        folder.below = folder.parts
        if folder.word not in WORDS:
            folder.unused = f"of the split {folder.word!r}, which is neither for training nor for testing"
            folder.word = ""
    while folders and all(folder.below and split_word(folder.below[0]) for folder in folders):
        names = {f.below[0] for f in folders if f.word == "train" and kind_of(split_word(f.below[0])) == "test"}
        said.remarks += [f"images in {name}/ are for training, as is told of each of them" for name in sorted(names)]
        for folder in folders:
            folder.below = folder.below[1:]


def _undivided(folders: list[Folder], said: Said) -> None:
    """Leave folders whole; those that may be test images all the same are told."""
    for folder in folders:
        folder.below = folder.parts
    names = {name for folder in folders for name in folder.parts}
    if tests := sorted(name for name in names if (word := word_in(name)) and kind_of(word) == "test"):
        more = f" and {len(tests) - 1:,} more" if len(tests) > 1 else ""
        said.remarks.append(
            f"{tests[0]}/{more} may be test images by name, but are trained on; put the others into train/ if they are"
        )

"""The one rule by which names of files become splits and classes, whatever kind of source they lie in.

It looks at folders. Folders named as splits, in any case and spelling (`Train`, `valid`, `train2017`), are splits where
both training and test lie side by side, below whatever lies around everything; the class is the folder below them or,
where there is none, above them. Otherwise the first folder is the class. What does not fit is left out, with a reason.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise, repeat
from typing import NamedTuple

import numpy as np

from ..sources.account import FIRST, Account, LeftOut
from ..sources.encoded import SourceError
from ..sources.labels import UNLABELLED
from .beside import Beside
from .divide import Folder, LayoutError, Parts, Said, as_told, children, depth_of, divide
from .doubts import classes_said, doubts, splits_in_names
from .split_names import (
    WORDS,
    companions,
    divided_names,
    has_both,
    is_images_word,
    kind_of,
    split_word,
    tokens,
    told_by_names,
    word_in,
)

_NEAR = 8  # folders beside each other that are compared
_PARENTS = 64  # places in which they are


class Layout(NamedTuple):
    """What paths say."""

    splits: dict[str, np.ndarray]
    """Rows, int64, of `train` and `test`, or of one of them; or of `all` if the paths are not divided."""
    labels: np.ndarray
    """int64 [N], -1 for none."""
    classes: list[str]
    """Those that occur in the splits, sorted, in Unicode's composed form; all splits share their numbers."""
    account: Account


def understand(
    paths: Sequence[str],
    *,
    labelled: np.ndarray | None = None,
    lone: bool = True,
    words: Sequence[str] | None = None,
) -> Layout:
    r"""Divide images into splits and classes by their paths, relative, with / or \ between folders.

    Args:
        labelled: bool [N], whether an image has a label of its own; of several test splits, one with labels is taken.
        lone: whether images of one split alone are that split, and not simply all that there are.
        words: the split of each image where a table or the name of its file tells it, which no folder overrules: a
            word of `split_names.WORDS`, or something else for none. If `lone`, one for training alone tells nothing.

    Raises:
        LayoutError: most images lie beside splits that stand somewhere deep among them.
    """
    folders, of = _folders(paths, words)
    said = Said()
    _leave_out_companions(folders, Beside([folder.parts for folder in folders], of, paths), said)
    used = [folder for folder in folders if not folder.unused]
    around = _strip_around(used, lone and words is None)
    if words is None or (lone and {folder.word for folder in used} == {"train"} and depth_of(used) is not None):
        divide(used, lone, said)
    else:
        as_told(used, said)
    has_labels = labelled is not None and bool(labelled.any())
    _label(used, said, has_labels)
    _choose_test(folders, of, labelled)
    names = sorted({folder.label for folder in folders if folder.label and not folder.unused})
    number = {name: label for label, name in enumerate(names)}
    labels = np.array([number.get(folder.label, UNLABELLED) for folder in folders], dtype=np.int64)[of]
    splits = _rows(folders, of, lone)
    if around:
        said.sentences.insert(0, f"{'/'.join(around)}/ around everything")
    said.sentences.insert(0, _of_splits(folders, splits))
    if not has_labels:
        said.remarks += doubts(names, labels, splits)
    if "all" in splits:
        said.remarks += splits_in_names(paths)
    account = Account(", ".join(said.sentences), _unused(paths, folders, of), tuple(said.remarks))
    return Layout(splits, labels, names, account)


def lay_out(
    spec: str,
    paths: Sequence[str],
    *,
    labelled: np.ndarray | None = None,
    lone: bool = True,
    words: Sequence[str] | None = None,
) -> Layout:
    """`understand`, with an error that names the source."""
    try:
        return understand(paths, labelled=labelled, lone=lone, words=words)
    except LayoutError as error:
        raise SourceError(f"data.source={spec!r}: {error}") from None


def words_of(paths: Sequence[str], *, lone: bool) -> tuple[list[str | None], Account]:
    """The split of each file of a set by its folders, or by its name where names tell both training and test.

    Where names tell of testing alone, the others are for training if they are called the same but for that.

    Returns:
        A word of `split_names.WORDS` for each, "" if the files are not divided, None for one that lies in no split; and
        what is to be said of that.
    """
    pairs = [path.replace("\\", "/").rpartition("/") for path in paths]
    names = [name.rpartition(".")[0] for _, _, name in pairs]
    by_name = list(map(word_in, names))
    if {kind_of(word) for word in by_name if word} == {"train", "test"}:
        named = [f"{folder}/{word}" if word else folder for (folder, _, _), word in zip(pairs, by_name, strict=True)]
        lone = True
    else:
        named = [folder for folder, _, _ in pairs]
    folders, of = _folders([f"{name}/" for name in named])
    _strip_around(folders, lone)
    said = Said()
    divide(folders, lone, said)
    kinds = {kind_of(folder.word) for folder in folders if folder.word}
    if "test" not in kinds:
        told, remarks = told_by_names(names)
        if told is not None:
            return list(told), Account("", (), tuple(remarks))
        said.remarks += remarks
    if len(kinds) < 2 and not lone:
        return [""] * len(paths), Account("", (), tuple(said.remarks))
    words = [None if folder.unused else folder.word for folder in folders]
    return [words[number] for number in of.tolist()], Account("", _unused(paths, folders, of), tuple(said.remarks))


def _folders(paths: Sequence[str], words: Sequence[str] | None = None) -> tuple[list[Folder], np.ndarray]:
    """The folders of images, one for each split that is told in it, and the folder of each, int64 [N]."""
    number: dict[tuple[str, str], int] = {}
    keys = zip(map(_folder, paths), repeat("", len(paths)) if words is None else words, strict=True)
    of = np.fromiter((number.setdefault(key, len(number)) for key in keys), np.int64, len(paths))
    parts = [tuple(part for part in name.split("/") if part not in ("", ".")) for name, _ in number]
    counts = np.bincount(of, minlength=len(parts)).tolist()
    found = [Folder(*pair) for pair in zip(_with_words_apart(parts), counts, strict=True)]
    for folder, (_, word) in zip(found, number, strict=True):
        folder.word = word
    return found, of


def _folder(path: str) -> str:
    return (path.replace("\\", "/") if "\\" in path else path).rpartition("/")[0]


def _with_words_apart(every: list[Parts]) -> list[Parts]:
    """cifar_train and cifar_test as the folders train and test in a folder cifar."""
    for depth in range(max(map(len, every), default=0)):
        apart = divided_names({parts[depth] for parts in every if len(parts) > depth})
        if apart:
            every = [
                (*parts[:depth], *apart.get(parts[depth], parts[depth : depth + 1]), *parts[depth + 1 :])
                if len(parts) > depth
                else parts
                for parts in every
            ]
    return every


def _leave_out_companions(folders: list[Folder], beside: Beside, said: Said) -> None:
    """Masks and the like lie beside the images that they belong to."""
    aside = set()
    inside = children(folders)
    for parent, names in inside.items():
        for name, of in companions(names).items():
            sure = any(is_images_word(other) or split_word(other) for other in of)
            shares = {} if sure else {other: beside.same((*parent, name), (*parent, other)) for other in of[:_NEAR]}
            named = not sure and not set(tokens(name)).isdisjoint(*map(tokens, of))  # cat_mask/ of cat/
            if sure or any(share > 0.5 and (named or tells) for share, tells in shares.values()):
                aside.add((*parent, name))
            elif named:
                said.remarks.append(
                    f"{name}/ is taken for a class, as its files are not called as those in {of[0]}/; "
                    f"move it away if it belongs to {of[0]}/"
                )
    for folder in folders if aside else ():
        if any(folder.parts[: depth + 1] in aside for depth in range(len(folder.parts))):
            folder.unused = "belong to the images beside them"
    for parent, names in list(inside.items())[:_PARENTS]:
        kept = sorted(name for name in names if (*parent, name) not in aside and not split_word(name))
        for one, other in pairwise(kept) if len(kept) <= _NEAR else ():
            share, tells = beside.same((*parent, one), (*parent, other))
            if share > 0.5 and tells:
                said.remarks.append(
                    f"{one}/ and {other}/ have files of the same names; move one away if it holds masks or the like"
                )
                return


def _strip_around(folders: list[Folder], lone: bool) -> Parts:
    """Take away, and return, the folders that lie around everything."""
    around: Parts = ()
    while folders and all(folder.parts for folder in folders) and len({folder.parts[0] for folder in folders}) == 1:
        below = {folder.parts[1] for folder in folders if len(folder.parts) > 1}
        if lone and split_word(folders[0].parts[0]) and not has_both(below):
            break
        around = (*around, folders[0].parts[0])
        for folder in folders:
            folder.parts = folder.parts[1:]
    return around


def _label(folders: list[Folder], said: Said, has_labels: bool) -> None:
    """Find the class of each folder."""
    used = [folder for folder in folders if not folder.unused]
    # one class is none; but images outside of folders may lie beside it where nothing is divided
    while len({_composed(folder.below[0]) for folder in used if folder.below}) == 1:
        if any(folder.word and not folder.below for folder in used):
            break
        for folder in used:
            folder.below = folder.below[1:]
    _strip_images_of_a_split(used)
    above = len({folder.above for folder in used}) > 1 and not any(folder.below for folder in used)
    spellings: dict[str, set[str]] = {}
    for folder in used:
        side = folder.above if above else folder.below
        folder.label = _composed(side[0]) if side else ""
        if side:
            spellings.setdefault(folder.label, set()).add(side[0])
    if has_labels or not spellings:
        said.sentences.append("labels of their own" if has_labels else "no classes")
        return
    where = "the folders above the splits" if above else "folders"
    deeper = [folder for folder in used if len(folder.above if above else folder.below) > 1]
    said.remarks += [] if above else _folders_in_classes(used)
    said.sentences.append(f"{classes_said(len(spellings))} by {where}" + (", the first of several" if deeper else ""))
    if twice := sorted(name for name, found in spellings.items() if len(found) > 1):
        said.sentences.append(f"{len(twice):,} of them spelled in two ways of Unicode ({twice[0]!r})")


def _strip_images_of_a_split(folders: list[Folder]) -> None:
    """train/cat/ may be a class where all of test is in test/images/."""
    tops: dict[str, set[str]] = {}
    for folder in folders:
        if folder.word:
            tops.setdefault(folder.word, set()).add(folder.below[0] if folder.below else "")
    alone = {word for word, names in tops.items() if len(names) == 1 and is_images_word(*names)}
    classes = set().union(*(names for word, names in tops.items() if word not in alone))
    for folder in folders:
        if folder.word in alone and folder.below[0] not in classes:
            folder.below = folder.below[1:]


def _folders_in_classes(folders: list[Folder]) -> list[str]:
    """Whether one class is a folder of folders, and another holds images: the one may be a folder of classes."""
    inside: dict[str, set[str]] = {}
    for folder in folders:
        if folder.label:
            inside.setdefault(folder.label, set()).add(folder.below[1] if len(folder.below) > 1 else "")
    odd = sorted(name for name, names in inside.items() if "" not in names and len(names) > 1)
    if not odd or not any("" in names for names in inside.values()):
        return []
    return [
        f"class {odd[0]!r} is {len(inside[odd[0]]):,} folders and others are none; if those are classes, give {odd[0]}/"
    ]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _choose_test(folders: list[Folder], of: np.ndarray, labelled: np.ndarray | None) -> None:
    """Of several splits for testing take the first that has labels, or else the first."""
    own = np.zeros(len(folders), dtype=bool)
    if labelled is not None:
        own = np.bincount(of[labelled], minlength=len(folders)) > 0
    has_labels: dict[str, bool] = {}
    for folder, has in zip(folders, own.tolist(), strict=True):
        if folder.word and not folder.unused and kind_of(folder.word) == "test":
            has_labels[folder.word] = has_labels.get(folder.word, False) or has or bool(folder.label)
    order = [word for word in WORDS if word in has_labels]
    taken = max(order, key=has_labels.__getitem__, default="")  # the first of the best
    for folder in folders:
        if folder.word in has_labels and folder.word != taken:
            folder.unused = folder.unused or f"the test split is {taken}, and not {folder.word}"


def _rows(folders: list[Folder], of: np.ndarray, lone: bool) -> dict[str, np.ndarray]:
    kinds = np.array(["" if f.unused else kind_of(f.word) if f.word else "all" for f in folders], dtype=object)
    found = {kind for kind in ("train", "test", "all") if (kinds == kind).any()}
    if len(found) == 1 and not lone:
        kinds[kinds != ""] = "all"
        found = {"all"}
    return {kind: np.flatnonzero((kinds == kind)[of]) for kind in ("train", "test", "all") if kind in found}


def _of_splits(folders: list[Folder], splits: dict[str, np.ndarray]) -> str:
    if "all" in splits:
        return "not divided into splits"
    said = []
    for kind in splits:
        words = {f.word for f in folders if f.word and not f.unused and kind_of(f.word) == kind}
        named = f" ({', '.join(sorted(words))})" if words != {kind} else ""
        said.append(f"{kind}{named}: {len(splits[kind]):,} image{'s' * (len(splits[kind]) != 1)}")
    return ", ".join(said)


def _unused(paths: Sequence[str], folders: list[Folder], of: np.ndarray) -> tuple[LeftOut, ...]:
    number = {"": 0}
    reasons = np.array([number.setdefault(folder.unused, len(number)) for folder in folders], dtype=np.int64)[of]
    rows = np.argsort(reasons, kind="stable")
    groups = np.split(rows, np.cumsum(np.bincount(reasons, minlength=len(number)))[:-1])
    return tuple(
        LeftOut(why, len(group), tuple(paths[row] for row in group[:FIRST].tolist()))
        for why, group in zip(number, groups, strict=True)
        if why
    )

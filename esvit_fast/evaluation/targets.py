"""Kinds of targets: what an image is to be told by, which images have one, and which of them are queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from ..data import Source
from ..data.views.draws import epoch_order
from ..errors import UserError
from ..registry import Registry
from ..text import counted

if TYPE_CHECKING:
    from .features import Features

HOLD_OUT = 10
"""Without a test split one in ten images that have a target is a query."""
Side = tuple[Source, list[int]]
"""A source and the indices of the images to take from it."""
Kind = TypeVar("Kind", bound="type[Targets]")


class Targets:
    """A kind of targets: several classes, a mask, a pair. Derive from it and decorate with `register_targets`.

    Attributes:
        name: what `Needs.targets` calls it.
        plural: what messages call what is missing: "no masks".
        remedy: how a user gives images such targets.
    """

    name: str
    plural: str
    remedy: str

    def has(self, source: Source) -> bool:
        """Whether the images of a source have such targets."""
        raise NotImplementedError

    def of(self, source: Source, index: int) -> Any:
        """The target of an image, such as a number or an array; `Features.labels` stacks them."""
        raise NotImplementedError

    def rows(self, source: Source) -> list[int]:
        """The images of a source that have a target; all of them by default."""
        return list(range(len(source)))

    def aligned(self, train: Source, test: Source) -> Source:
        """The test source, its targets numbered as those of the training source.

        Raises:
            UserError: the two have nothing in common.
        """
        return test

    def classes(self, bank: Features) -> int:
        """How many classes occur; 0 where guessing has no chance that is one in so many."""
        return 0

    def remarks(self, bank: Features, queries: Features, source: Source) -> Sequence[str]:
        """What a reader of numbers must know of these targets; `source` is that of the queries."""
        return ()

    def split(self, train: Source, test: Source | None) -> tuple[Side, Side] | None:
        """The images of the bank and of the queries; None if the training source has no such targets.

        A test source without targets, or with the same images, counts as none; then a fixed random tenth of the
        training images are queries and not in the bank. Images without a target are left out.

        Raises:
            UserError: as `aligned`, or fewer than two images have a target.
        """
        if not self.has(train):
            return None
        rows = self.rows(train)
        queries = self.rows(test) if test is not None and self.has(test) else []
        if queries and not same_images(train, test):
            return (train, rows), (self.aligned(train, test), queries)
        if len(rows) < 2:
            raise UserError(
                f"data.source={train.name!r} has {len(rows)} images with a label; bank and queries need 2 or more"
            )
        held = [rows[i] for i in subset(len(rows), max(1, len(rows) // HOLD_OUT))]
        return (train, sorted(set(rows) - set(held))), (train, held)

    def require(self, source: Source, what: str) -> None:
        """Check that a source has such targets.

        Raises:
            UserError: it has none; the message says how to give them.
        """
        if not self.has(source):
            raise UserError(f"source={source.name!r} has no {self.plural}, which {what} needs: {self.remedy}")


TARGETS: Registry[Targets] = Registry("kind of targets")


def register_targets(kind: Kind) -> Kind:
    """Let protocols ask for a kind of targets: a decorator of a class derived from `Targets`.

    Raises:
        UserError: another kind has its name.
    """
    TARGETS.register(kind(), kind.name)
    return kind


@register_targets
class ClassTargets(Targets):
    """One class an image, -1 where it has none.

    Classes are the same if their names are: those of the test source are numbered as the training source's, further
    ones after them, and either may lack some of the other's. Images without a label are those beside class folders.
    """

    name, plural = "class", "classes"
    remedy = "put the images of each class in a folder of its own, or pass a .csv of path,class"

    def has(self, source: Source) -> bool:
        """Whether it names classes."""
        return bool(source.classes)

    def of(self, source: Source, index: int) -> int:
        """The label."""
        return source.label(index)

    def rows(self, source: Source) -> list[int]:
        """The images that have a label; all of them where labels are known only by reading images."""
        labels = getattr(source, "labels", None)
        return super().rows(source) if labels is None else [i for i, label in enumerate(labels) if label >= 0]

    def aligned(self, train: Source, test: Source) -> Source:
        """As `Targets.aligned`, by the names of classes."""
        if test.classes == train.classes:
            return test
        if not set(test.classes) & set(train.classes):
            raise UserError(
                f"test source {test.name!r} has no class of {train.name!r}: {_first(test.classes)} instead of "
                f"{_first(train.classes)}; give both the same class folders or labels"
            )
        return Renumbered(test, train.classes)

    def classes(self, bank: Features) -> int:
        """Those of the bank."""
        return len(bank.labels.unique())

    def remarks(self, bank: Features, queries: Features, source: Source) -> Sequence[str]:
        """Queries of a class that the bank lacks."""
        lost = queries.labels[~torch.isin(queries.labels, bank.labels)]
        if not len(lost):
            return ()
        kinds = f"{len(lost.unique()):,} {'class' if len(lost.unique()) == 1 else 'classes'}"
        first = ", ".join(repr(source.classes[label]) for label in lost.unique().tolist()[:3])
        return [
            f"{len(lost):,} of {counted(len(queries.labels), 'test image')} are of {kinds} of "
            f"which no training image is ({first}): they count as wrong"
        ]


class Renumbered:
    """A source whose labels are those of the classes of the same names in another one."""

    def __init__(self, source: Source, classes: Sequence[str]):
        self.source, self.name, known = source, source.name, set(classes)
        self.classes = (*classes, *(name for name in source.classes if name not in known))
        number = {name: label for label, name in enumerate(self.classes)}
        self._numbers = [number[name] for name in source.classes]

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> np.ndarray:
        """As the source's."""
        return self.source.image(index)

    def label(self, index: int) -> int:
        """Class of an image among `classes`, -1 if it has none."""
        label = self.source.label(index)
        return self._numbers[label] if label >= 0 else label

    def path(self, index: int) -> str:
        """As the source's."""
        return self.source.path(index)


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(map(repr, names[:count])) + (", …" if len(names) > count else "")


def same_images(one: Source, other: Source) -> bool:
    """Whether two sources are the same files in the same order, as the splits of what is not divided are."""
    return len(one) == len(other) and all(one.path(i) == other.path(i) for i in range(len(one)))


def subset(length: int, limit: int | None) -> list[int]:
    """At most `limit` indices of `range(length)`, rising; None or 0 means all.

    They are random, since every n-th image would miss classes where labels alternate, but the same ones every time; a
    larger limit adds to them.
    """
    return sorted(epoch_order(0, 0, length)[: limit or length].tolist())


def require_labels(source: Source, what: str) -> None:
    """Check that a source has classes, which `what` needs.

    Raises:
        UserError: it has none; the message says how to give them.
    """
    TARGETS["class"].require(source, what)

"""What every protocol is: all that the command line, the report, the suite and training know of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..registry import BrokenContract, Registry, missing_of
from .presentation import Card, Comparison, Grid
from .settings import Settings as AnySettings
from .settings import check_settings

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    import torch

    from .bench import Bench
    from .features import Features
    from .result import Result, Row
    from .task import Task

REQUIRED = ("name", "description", "Settings", "needs", "run")
"""What a protocol must have; the rest of `Protocol` has defaults."""
Kind = TypeVar("Kind", bound="type[Protocol]")


class Needs(NamedTuple):
    """What a protocol cannot do without."""

    targets: str | None = None
    """The kind of targets that images must have, a name of `TARGETS`; None: they need none."""
    test: bool = False
    """A test split of its own, instead of a held-out part of the training images."""
    backbone: tuple[str, ...] = ()
    """The methods that it calls of a backbone, beside `forward`."""


class Protocol:
    """From frozen networks and a task to numbers. Derive from it and decorate the class with `register_protocol`.

    Attributes:
        name: what follows `esvit-fast eval`.
        description: one sentence.
        Settings: a frozen dataclass of what it may be told, derived from `Settings`, with a default for everything.
        needs: what it cannot do without; it is checked before `run`.
        title: what it is called in a sentence; by default its name.
        columns: what `eval` prints of each row: keys with their headings, which end with % for numbers in percent.
            Without any, the protocol is for the report alone and `eval` does not offer it.
        raw_pixels: whether the pixels themselves are judged beside networks, where a bench has them.
        in_suite: whether the report and `evaluate_run` run it.
        position: where it stands in lists and reports; those of the same position are in the order of their names.
        comparison: a table of the report.
    """

    name: str
    description: str
    Settings: type[AnySettings]
    needs: Needs
    title: str = ""
    columns: Sequence[tuple[str, str]] = ()
    raw_pixels: bool = False
    in_suite: bool = True
    position: int = 100
    comparison: Comparison | None = None

    def run(self, bench: Bench, task: Task, settings: Any) -> Result:
        """Evaluate all `bench.networks`, most easily by `bench.features` of the images of `task.draw`.

        Raises:
            UserError: the settings do not fit the networks or the images.
        """
        raise NotImplementedError

    def score(self, bank: Features, queries: Features, settings: Any, device: str | torch.device) -> list[Row]:
        """The rows of one network by its features alone: what can be asked while it trains, too."""
        raise NotImplementedError

    def card(self, result: Result) -> Card | None:
        """The headline figure of the report."""
        return None

    def grid(self, row: Row) -> Grid | None:
        """A table that the report adds to the numbers of the trained network."""
        return None


PROTOCOLS: Registry[Protocol] = Registry("protocol")


def register_protocol(kind: Kind) -> Kind:
    """Let `eval`, the report and the suite run a protocol: a decorator of a class derived from `Protocol`.

    Raises:
        BrokenContract: it breaks the contract; the message names the member.
        UserError: another protocol has its name.
    """
    check_contract(kind)
    PROTOCOLS.register(kind(), kind.name)
    return kind


def check_contract(kind: type[Protocol]) -> None:
    """Check what can be known of a protocol before it runs.

    Raises:
        BrokenContract: a member is missing or of another kind than it must be.
    """
    what = f"protocol {getattr(kind, '__name__', kind)}"
    if not (isinstance(kind, type) and issubclass(kind, Protocol)):
        raise BrokenContract(f"{what} is no class derived from esvit_fast.evaluation.Protocol")
    if missing := missing_of(kind, Protocol, REQUIRED):
        raise BrokenContract(f"{what} has no {' and no '.join(missing)}; see esvit_fast.evaluation.Protocol")
    if not (isinstance(kind.name, str) and kind.name.isidentifier()):
        raise BrokenContract(f"{what}: name={kind.name!r} must be one word of letters, digits and underscores")
    if not isinstance(kind.needs, Needs):
        raise BrokenContract(f"{what}: needs={kind.needs!r} must be a Needs, such as Needs(targets='class')")
    try:
        check_settings(kind.Settings)
    except TypeError as error:
        raise BrokenContract(f"{what}: {error}") from None

"""Accuracy of a linear classifier on frozen features, as published for EsViT, by `measures.linear`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..presentation import Card, Grid
from ..protocol import Needs, Protocol, register_protocol
from ..settings import ImageSettings, setting

if TYPE_CHECKING:
    from ..bench import Bench
    from ..result import Result, Row
    from ..task import Task


@dataclass(frozen=True)
class LinearSettings(ImageSettings):
    """Of the linear probe; blocks=0 takes the pooled output of a network instead of the tokens of its last blocks."""

    blocks: int = setting(4, "last blocks whose tokens are pooled", at_least=0, hint="the published value is 4")
    epochs: int = setting(100, "of the classifiers", at_least=1)
    seed: int = setting(0, "of the classifiers", at_least=-(2**63), at_most=2**64 - 1)


@register_protocol
class Linear(Protocol):
    """A linear probe of every network."""

    name, title, position = "linear", "linear probe", 2
    description = "A linear classifier is trained on frozen features, at many learning rates at once."
    needs = Needs(targets="class")  # blocks=0 reads those of any network
    Settings = LinearSettings
    columns = (("learning_rate", "learning rate"), ("top1", "top-1 %"), ("top5", "top-5 %"))

    def run(self, bench: Bench, task: Task, settings: LinearSettings) -> Result:
        """As `Protocol.run`.

        Raises:
            UserError: a network has fewer blocks than are asked for, or as `linear_probe`.
        """
        from ..measures.linear import linear_probe

        blocks, remarks = _blocks(bench, settings.blocks)
        images, numbers = task.draw(settings.bank, settings.queries), {}
        images = replace(images, remarks=(*images.remarks, *remarks))
        for name in bench.networks:
            seen = bench.features(name, images, settings.size, blocks)
            probe = linear_probe(
                *seen,
                epochs=settings.epochs,
                seed=settings.seed,
                device=bench.device,
                progress=bench.reporter(f"{name}, linear probe"),
            )
            table = [
                {"learning_rate": row.learning_rate, "held_out": row.held_out.top1, "test": row.test.top1}
                for row in probe.table
            ]
            numbers[name] = [probe._asdict() | {"table": table, "diverged": list(probe.diverged)}]
        said = {"blocks": blocks, "epochs": settings.epochs, "seed": settings.seed}
        return bench.result(self.name, images, numbers, said, seen, settings.size)

    def card(self, result: Result) -> Card:
        """Top-1 accuracy."""
        best = result.row()
        note = f"A linear classifier on frozen features of the same images; learning rate {best['learning_rate']:g} of "
        note += f"{len(best['table'])}, chosen on training images held back."
        return Card("Linear probe", "top1", note, result.chance)

    def grid(self, row: Row) -> Grid:
        """Every learning rate that was tried."""
        columns = "learning rate (times batch / 256)", "held-out %", "test %"
        rates = [rate["learning_rate"] for rate in row["table"]]
        cells = [(f"{one['learning_rate']:g}", f"{one['held_out']:.2f}", f"{one['test']:.2f}") for one in row["table"]]
        lost = f"Diverged: {', '.join(f'{rate:g}' for rate in row['diverged'])}." if row["diverged"] else ""
        return Grid(columns, cells, rates.index(row["learning_rate"]), lost)


def _blocks(bench: Bench, asked: int) -> tuple[int, list[str]]:
    """How many of the last blocks are read, and what is to be said of that: all, where a network has fewer than the
    published number.

    Raises:
        UserError: another number is asked for than a network has.
    """
    for name, network in bench.networks.items():
        if not asked or not hasattr(network, "check_blocks"):
            continue
        there = sum(network.depths()) if hasattr(network, "depths") else asked
        if there < asked == LinearSettings.blocks:
            read = f"all {there} blocks are" if there else "the pooled output is"
            return there, [f"{read} read, as {name} has no {asked}"]
        network.check_blocks(asked)
    return asked, []

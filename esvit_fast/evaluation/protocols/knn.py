"""Weighted k-NN accuracy, as published for DINO (arXiv 2104.14294) and EsViT, by `measures.knn`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..presentation import Card
from ..protocol import Needs, Protocol, register_protocol
from ..settings import ImageSettings, setting

if TYPE_CHECKING:
    import torch

    from ..bench import Bench
    from ..features import Features
    from ..result import Result, Row
    from ..task import Task

HEADLINE_K = 20
"""The number of neighbours whose accuracy, or that of the nearest number, stands for k-NN where one must do."""
K = (10, HEADLINE_K, 100, 200)
"""As published."""
_PUBLISHED = " ".join(map(str, K))


@dataclass(frozen=True)
class KnnSettings(ImageSettings):
    """Of k-NN; k is by default `K`, each lowered to the size of a smaller bank."""

    k: tuple[int, ...] | None = setting(
        None, "neighbours", at_least=1, hint=f"the published ones are {_PUBLISHED}", default_is=_PUBLISHED
    )
    temperature: float = setting(0.07, "of the neighbours' votes", above=0, hint="the published value is 0.07")


@register_protocol
class Knn(Protocol):
    """k-NN of every network, and of raw pixels."""

    name, title, position = "knn", "k-NN", 1
    description = "The training images nearest to a test image vote for its class."
    needs = Needs(targets="class")
    Settings = KnnSettings
    columns = (("k", "k"), ("top1", "top-1 %"), ("top5", "top-5 %"))
    raw_pixels = True

    def run(self, bench: Bench, task: Task, settings: KnnSettings) -> Result:
        """As `Protocol.run`.

        Raises:
            UserError: k is out of range, or an image has no label.
        """
        from ..bench import PIXEL_SIDE, RawPixels
        from ..measures.knn import check_k

        images = task.draw(settings.bank, settings.queries)
        for n in settings.k or ():
            check_k(n, len(images.sides[0][1]))
        numbers = {}
        for name in bench.networks:
            seen = bench.features(name, images, settings.size)
            numbers[name] = self.score(*seen, settings, bench.device)
        said = {"k": list(_k(settings, seen[0])), "temperature": settings.temperature}
        if any(isinstance(network, RawPixels) for network in bench.networks.values()):
            said["raw_pixels"] = f"{PIXEL_SIDE} x {PIXEL_SIDE}"
        rows = numbers[name]
        headline = min(range(len(rows)), key=lambda row: abs(rows[row]["k"] - HEADLINE_K))
        return bench.result(self.name, images, numbers, said, seen, settings.size, headline)

    def score(self, bank: Features, queries: Features, settings: KnnSettings, device: str | torch.device) -> list[Row]:
        """A row for each k."""
        from ..measures.knn import knn

        found = knn(bank, queries, k=_k(settings, bank), temperature=settings.temperature, device=device)
        return [{"k": n, **accuracy._asdict()} for n, accuracy in found.items()]

    def card(self, result: Result) -> Card:
        """Top-1 accuracy."""
        note = f"Weighted vote of the {result.row()['k']} nearest of {result.bank:,} training images, for "
        return Card(self.title, "top1", f"{note}{result.queries:,} test images.", result.chance)


def _k(settings: KnnSettings, bank: Features) -> tuple[int, ...]:
    return settings.k or tuple(dict.fromkeys(min(n, len(bank.labels)) for n in K))

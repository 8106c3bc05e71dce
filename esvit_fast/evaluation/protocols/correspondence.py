"""Whether regions find themselves in another view (EsViT, section 4.4), by `measures.correspondence`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..presentation import Card
from ..protocol import Needs, Protocol, register_protocol
from ..settings import SizeSettings, setting

if TYPE_CHECKING:
    from ..bench import Bench
    from ..result import Result
    from ..task import Task


@dataclass(frozen=True)
class CorrespondenceSettings(SizeSettings):
    """Of correspondence."""

    pair_images: int = setting(200, "images whose regions are matched, 0: all", at_least=0, hint="0 takes all images")
    seed: int = setting(0, "of pairs of views", at_least=-(2**63), at_most=2**64 - 1)


@register_protocol
class RegionCorrespondence(Protocol):
    """A row for each kind of pairs of views: `PAIRS`."""

    name, position = "correspondence", 3
    description = "Regions of an image are looked for in another view of it; no classes are needed."
    needs = Needs(backbone=("forward_regions",))
    Settings = CorrespondenceSettings
    columns = (
        ("views", "views"),
        ("top10", "top-10 pairs %"),
        ("exact", "all %"),
        ("near", "all, one off %"),
        ("chance", "chance %"),
    )

    def run(self, bench: Bench, task: Task, settings: CorrespondenceSettings) -> Result:
        """As `Protocol.run`, of the images that are shown: those of the test split, where there is one.

        Raises:
            UserError: as `correspondence_accuracy`.
        """
        from ...data import eval_transform
        from ..measures.correspondence import PAIRS, correspondence_accuracy
        from ..result import Result, drawn, unread
        from ..task import subset

        (source, split), numbers = task.shown, {}
        rows = subset(len(source), settings.pair_images)
        for name, model in bench.networks.items():
            size, numbers[name] = int(settings.size or model.image_size), []
            for views in PAIRS:
                found = correspondence_accuracy(
                    model,
                    source,
                    augment=bench.augment,
                    views=views,
                    size=size,
                    indices=rows,
                    seed=settings.seed,
                    device=bench.device,
                    progress=bench.reporter(f"{name}, correspondence, {views}"),
                )
                numbers[name].append({"views": views, **found._asdict()})
        transform = (
            f"published: {eval_transform(size)}; the second view mirrored, colors jittered (4 times of 5) and gray. "
            f"crops: two of 40 to 80 % at {size} x {size} px, colors kept, the second mirrored half of the times"
        )
        data = f"{source.name}, {split}" if split else source.name
        said = {"pair_images": settings.pair_images, "seed": settings.seed}
        remarks = (*drawn(len(rows), len(source), "image"), *unread(len(rows) - found.images))
        return Result(self.name, data, 0, found.images, 0, transform, said, numbers, remarks)

    def card(self, result: Result) -> Card:
        """The published accuracy."""
        published = result.row()
        note = "Regions found again in the same image mirrored, jittered and gray, among the ten most similar pairs of "
        note += f"each of {published['images']:,} images, as published. All regions: {_change(result, 0, 'exact')} %. "
        note += f"Two crops that keep their colors, which favors color alone: {_change(result, 1, 'top10')} %."
        return Card("Correspondence", "top10", note, published["chance"])


def _change(result: Result, row: int, key: str) -> str:
    """A number before and after training."""
    before_after = (result.numbers[network] for network in ("untrained", "trained") if network in result.numbers)
    return " \u2192 ".join(f"{rows[row][key]:.1f}" for rows in before_after)

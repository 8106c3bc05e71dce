"""Whether features have collapsed, by `measures.health`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..presentation import Comparison
from ..protocol import Needs, Protocol, register_protocol
from ..settings import ImageSettings

if TYPE_CHECKING:
    from ..bench import Bench
    from ..result import Result
    from ..task import Task


@register_protocol
class Health(Protocol):
    """How far the features of a part of the training images spread (`Bench.part`)."""

    name, title, position = "health", "feature health", 4
    description = "How far features spread: whether they have collapsed; no classes are needed."
    needs = Needs()
    Settings = ImageSettings
    comparison = Comparison(
        "Feature health",
        "Whether images differ in feature space.",
        (
            ("Effective rank", "directions that the features use (RankMe)", "{rank:.1f} of {rank_limit}"),
            (
                "Spread",
                "standard deviation of normalised features, relative to an even spread; 0 is collapse",
                "{std:.3f}",
            ),
            ("Mean cosine", "similarity of two different images; 1 is collapse", "{cosine:.3f}"),
        ),
    )

    def run(self, bench: Bench, task: Task, settings: ImageSettings) -> Result:
        """As `Protocol.run`.

        Raises:
            UserError: fewer than two images can be read, or features are not finite.
        """
        from ..measures.health import feature_health

        images = task.draw(settings.bank, settings.queries)
        parts = {name: bench.part(name, images, settings.size) for name in bench.networks}
        numbers = {name: [feature_health(part.features)._asdict()] for name, part in parts.items()}
        return bench.result(self.name, images, numbers, {}, [next(iter(parts.values()))], settings.size)

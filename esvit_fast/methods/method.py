"""What every method of pretraining is: all that the trainer, the planner, the doctor and the report know of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from .signs import GENERAL, Sign

REQUIRED = ("Settings", "build", "backbones", "forward")
"""What a method must have; the rest of `Method` has defaults."""


class StepOutput(NamedTuple):
    """What a method makes of a micro-batch.

    Attributes:
        loss: scalar, whose gradients train.
        values: what is logged beside it, float32 scalars without gradients; as many in every step of a run.
        features: [B, C], the trained backbone's of the first view of each image, without gradients: their rank is
            watched.
    """

    loss: Tensor
    values: Mapping[str, Tensor]
    features: Tensor


class Curves(NamedTuple):
    """A chart of what a run logs.

    Attributes:
        names: of its values, each with what the chart calls it.
        mark: a level to compare them with, by its label.
    """

    title: str
    names: tuple[tuple[str, str], ...]
    unit: str = ""
    mark: tuple[str, float] | None = None
    note: str = ""


class NoPoint(NamedTuple):
    """The numbers of a method that has no schedules."""


class Method(nn.Module):
    """Networks, a loss, and whatever else a step of pretraining moves. No files, no ranks, no optimizer.

    A step is `prepare`, then for each micro-batch `forward` and the backward pass, with `reduce` after the last
    `forward`; then the optimizer, and `after_step`. One that is not taken ends with `forget`.

    Attributes:
        Settings: the frozen dataclass of its settings, a `config.MethodSettings`; in a recipe, `method: {name: …, …}`.
        Point: named numbers that its schedules give a step, such as a temperature.
        on_device: those of them that may be scalars on the device, as a recorded step has them.
        kept: name of the backbone to keep, within the method.
        teacher_views: how many of the crops, from the first, a second network sees.
        signs: what the doctor looks for in the records of a run.
    """

    Settings: ClassVar[type]
    Point: ClassVar[type] = NoPoint
    on_device: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[str] = "backbone"
    teacher_views: int = 0
    signs: ClassVar[Mapping[str, Sign]] = GENERAL

    @classmethod
    def build(cls, settings: Any, backbone: nn.Module, all_reduce: Callable[[Tensor], object] | None) -> Method:
        """The method as a run starts with it.

        Args:
            settings: of the class `Settings`.
            backbone: what is to be trained.
            all_reduce: sums a tensor over all ranks, in place; what it returns is waited for, if it has a `wait`.
        """
        raise NotImplementedError

    @classmethod
    def schedule(cls, config: Any, epoch_samples: int, total_samples: int) -> Callable[[int], Any]:
        """`Point` as a function of the images seen before a step.

        Args:
            config: of the run; its method's settings are `config.method`.
            epoch_samples: images of an epoch.
            total_samples: images of the run.
        """
        return lambda samples: cls.Point()

    @classmethod
    def min_images(cls, settings: Any) -> tuple[int, str, str]:
        """The fewest images of a micro-batch; which setting asks for more than one, as `name=value`, and its cure."""
        return 1, "", ""

    @classmethod
    def smaller(cls, settings: Any) -> Iterator[tuple[str, Any]]:
        """Settings, each by name and value, that need ever less memory, for a plan that does not fit."""
        return iter(())

    @classmethod
    def compares_images(cls, settings: Any) -> bool:
        """Whether memory grows with the square of the images of a micro-batch."""
        return False

    @classmethod
    def title(cls, settings: Any) -> str:
        """What a run was pretrained with, in a few words."""
        return f"the method {settings.name}"

    @classmethod
    def outcome(cls, settings: Any) -> tuple[Curves, ...]:
        """Charts that show whether a run learns."""
        return (Curves("Loss", (("loss", "total"),)),)

    @classmethod
    def course(cls, settings: Any) -> tuple[Curves, ...]:
        """Charts of the numbers of its schedules."""
        return tuple(Curves(name.replace("_", " ").capitalize(), ((name, name),)) for name in cls.Point._fields)

    def backbones(self) -> Sequence[nn.Module]:
        """The backbones, the trained one first."""
        raise NotImplementedError

    @property
    def trained(self) -> nn.Module:
        """What the optimizer moves."""
        return self

    def parts(self) -> Mapping[str, nn.Module]:
        """Networks and losses by name, for the plan's table: `student`, `teacher` and `loss`, where there are such."""
        return {"student": self.trained}

    def forward(self, crops: Sequence[Tensor], point: Any) -> StepOutput:
        """Loss and values of a micro-batch.

        Args:
            crops: views of the same B images, each [B, 3, side, side], in the order of `data.crops`.
            point: `Point`.
        """
        raise NotImplementedError

    def prepare(self, point: Any) -> bool:
        """Begin a step; whether other parameters than before get gradients in it."""
        return False

    def reduce(self) -> None:
        """Begin to sum over ranks, beside the backward pass, what `after_step` needs."""

    def after_step(self, point: Any, skip: Tensor | None = None) -> None:
        """Move what the optimizer does not; on a GPU nothing of it, where the scalar `skip` on the device is true."""

    def forget(self) -> None:
        """Drop what forward passes have left, as when a step is not taken."""

    def watched(self) -> Mapping[str, Tensor]:
        """Further scalars for the records, made for the steps that are logged."""
        return {}

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Within, weights that ranks share are whole, but for those of the backbones' units."""
        shared = hasattr(self, "unshard")
        if shared:
            self.unshard()
        try:
            yield
        finally:
            if shared:
                self.reshard()

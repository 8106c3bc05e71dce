"""The datasets of torchvision by name, already on disk."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image

from ..decode import CorruptImage, decode_image, image_array, reason
from ..layout.split_names import CANONICAL, kind_of
from .account import Account
from .encoded import SourceError
from .labels import UNLABELLED, by_number
from .opened import Opened

_LABELS = ("targets", "labels", "_labels")


class TorchvisionSource:
    """A torchvision dataset of (image, class) pairs."""

    def __init__(
        self,
        name: str,
        dataset: torchvision.datasets.VisionDataset,
        max_megapixels: float,
        part: str = "",
        others: Callable[[], np.ndarray | None] = lambda: None,
    ):
        """A dataset, and the labels of its other split for the case that it does not name its classes."""
        self.name, self.dataset, self.max_megapixels, self.part = name, dataset, max_megapixels, part
        self.labels = self.marks = _labels_of(dataset)
        names = getattr(dataset, "classes", None) or ()
        if self.labels is not None and len(names) <= int(self.labels.max(initial=UNLABELLED)):
            own, more = self.labels, others()
            numbered = by_number(own if more is None else np.concatenate([own, more]))
            self.labels, names = numbered.labels[: len(own)], numbered.classes
        self.classes = tuple(map(str, names))

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> np.ndarray:
        """Pixels, uint8 RGB [H, W, 3]; raises CorruptImage if they cannot be read."""
        try:
            if isinstance(self.dataset, torchvision.datasets.DatasetFolder):  # whose loader cuts 16 bits at 255
                data = Path(self.dataset.samples[index][0]).read_bytes()
                return decode_image(data, self.path(index), self.max_megapixels)
            image = self.dataset[index][0]
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise CorruptImage(self.path(index), reason(error)) from None
        return image_array(image, self.path(index), self.max_megapixels)

    def label(self, index: int) -> int:
        """Class of an image, -1 if it has none."""
        if self.labels is not None:
            return int(self.labels[index])
        target = self.dataset[index][1]
        return target if isinstance(target, int) else UNLABELLED

    def path(self, index: int) -> str:
        """What to call an image in messages."""
        return f"{self.name}{self.part}[{index}]"


def open_torchvision(spec: str, rest: str, max_megapixels: float) -> Opened:
    """Open `NAME@ROOT`; nothing is downloaded.

    Raises:
        SourceError: there is no such dataset. Of its splits, when they are taken: the files are not below the root.
    """
    name, _, root = rest.partition("@")
    dataset = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(dataset) and issubclass(dataset, torchvision.datasets.VisionDataset)) or not root:
        raise SourceError(f"data.source={spec!r} must be torchvision:NAME@ROOT, such as torchvision:CIFAR10@data/cifar")
    arguments = inspect.signature(dataset.__init__).parameters
    if not {"train", "split"} & arguments.keys():
        whole = _made(spec, dataset, root, "train")
        return Opened(spec, {"all": lambda: TorchvisionSource(spec, whole, max_megapixels)})

    def part(split: str, other: str, suffix: str) -> TorchvisionSource:
        def others() -> np.ndarray | None:
            try:
                return _labels_of(_made(spec, dataset, root, other))
            except SourceError:  # there is none
                return None

        return TorchvisionSource(spec, _made(spec, dataset, root, split), max_megapixels, suffix, others)

    parts = {"train": partial(part, "train", "test", ""), "test": partial(part, "test", "train", "/test")}
    return Opened(spec, parts, Account(f"train and test as torchvision's {name} divides them"))


def _made(spec: str, dataset: type, root: str, split: str) -> torchvision.datasets.VisionDataset:
    arguments = inspect.signature(dataset.__init__).parameters
    download = {"download": False} if "download" in arguments else {}
    names = [name for name, word in CANONICAL.items() if kind_of(word) == split]
    choices: list[dict] = [{"split": name} for name in names] if "split" in arguments else [{}]
    choices = [{"train": split == "train"}] if "train" in arguments else choices
    errors: list[Exception] = []
    for choice in choices:
        try:
            return dataset(root, **choice, **download)
        except (RuntimeError, OSError, ValueError, TypeError, ModuleNotFoundError) as error:
            errors.append(error)
    why = next((error for error in errors if not isinstance(error, ValueError)), errors[0])  # or it has no such split
    name = dataset.__name__
    remedy = f"torchvision.datasets.{name}({root!r}, download=True)" if download else "its instructions"
    raise SourceError(f"data.source={spec!r} cannot be opened: {reason(why)}; fetch the files first, with {remedy}")


def _labels_of(dataset: torchvision.datasets.VisionDataset) -> np.ndarray | None:
    labels = next((getattr(dataset, key) for key in _LABELS if hasattr(dataset, key)), None)
    return None if labels is None else np.asarray(labels, dtype=np.int64)

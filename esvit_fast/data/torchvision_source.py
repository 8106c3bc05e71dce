"""The datasets of torchvision by name, already on disk."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image

from .decode import CorruptImage, decode_image, image_array, reason
from .encoded import SPLITS, UNLABELLED, SourceError, check_split

_LABELS = ("targets", "labels", "_labels")


class TorchvisionSource:
    """A torchvision dataset of (image, class) pairs."""

    def __init__(self, name: str, dataset: torchvision.datasets.VisionDataset, max_megapixels: float, part: str = ""):
        self.name, self.dataset, self.max_megapixels, self.part = name, dataset, max_megapixels, part
        labels = next((getattr(dataset, key) for key in _LABELS if hasattr(dataset, key)), None)
        self.labels = np.asarray(labels, dtype=np.int64) if labels is not None else None
        count = 0 if self.labels is None else int(self.labels.max()) + 1
        names = getattr(dataset, "classes", None)
        self.classes = tuple(map(str, names if names and len(names) >= count else range(count)))

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


def open_torchvision(spec: str, rest: str, split: str, max_megapixels: float) -> TorchvisionSource:
    """Open `NAME@ROOT`; nothing is downloaded.

    Raises:
        SourceError: there is no such dataset, its files are not below the root, or it has no such split.
    """
    name, _, root = rest.partition("@")
    dataset = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(dataset) and issubclass(dataset, torchvision.datasets.VisionDataset)) or not root:
        raise SourceError(f"data.source={spec!r} must be torchvision:NAME@ROOT, such as torchvision:CIFAR10@data/cifar")
    parameters = inspect.signature(dataset.__init__).parameters
    download = {"download": False} if "download" in parameters else {}
    reasons = []
    for choice in _split_arguments(parameters, split):
        try:
            part = "/test" if choice and split == "test" else ""
            return TorchvisionSource(spec, dataset(root, **choice, **download), max_megapixels, part)
        except (RuntimeError, OSError, ValueError, TypeError, ModuleNotFoundError) as error:
            reasons.append(reason(error))
    remedy = f"torchvision.datasets.{name}({root!r}, download=True)" if download else "its instructions"
    raise SourceError(f"data.source={spec!r} cannot be opened: {reasons[0]}; fetch the files first, with {remedy}")


def _split_arguments(parameters: dict[str, inspect.Parameter], split: str) -> list[dict]:
    """Constructor arguments that may select a split: a flag, one of several names, or none."""
    check_split(split)
    if "train" in parameters:
        return [{"train": split == "train"}]
    return [{"split": name} for name in SPLITS[split]] if "split" in parameters else [{}]

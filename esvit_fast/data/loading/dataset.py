"""The crops of an image, and what happens where it cannot be read."""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from ...config import DataConfig
from ..batch import Failure, Jpeg, Sample, TooManyCorrupt
from ..decode import CorruptImage, decode_image, plain_jpeg_size
from ..sources.encoded import Source
from ..views.draws import AUGMENT, CROP, replacements, uniforms
from ..views.multicrop import MultiCrop

_TRIES = 64  # unreadable images in a row before a sample is given up
_BELOW_ONE = np.float32(1 - 2**-24)


class CropDataset(Dataset):
    """The crops of (epoch, index): a pure function of these, the seed and the source.

    Args:
        encoded: leave plain JPEGs as they are, and tell only where their crops lie.
    """

    def __init__(self, source: Source, config: DataConfig, seed: int, *, encoded: bool = False):
        self.source, self.seed, self.encoded = source, seed, encoded
        self.crop = MultiCrop(config.crops)

    def __getitem__(self, key: tuple[int, int]) -> Sample | TooManyCorrupt:
        epoch, index = key
        image, index, failures = self._readable(epoch, index)
        if image is None:
            return TooManyCorrupt(
                f"data.source={self.source.name!r}: {_TRIES} images in a row cannot be read, "
                f"the first is {failures[0][1]}: {failures[0][2]}; check the files"
            )
        draws = uniforms(self.seed, epoch, index, len(self.crop.sizes))
        augment = np.minimum(draws[:, AUGMENT].astype(np.float32), _BELOW_ONE)
        if isinstance(image, np.ndarray):
            return Sample(self.crop(image, draws[:, CROP]), augment, index, failures)
        data, size = image
        return Sample([], augment, index, failures, Jpeg(data, size, self.crop.boxes(*size, draws[:, CROP]), key))

    def _image(self, index: int) -> np.ndarray | tuple[bytes, tuple[int, int]]:
        """Pixels; or, of a JPEG that stays encoded, its bytes, height and width."""
        if not self.encoded:
            return self.source.image(index)
        data, path, limit = self.source.encoded(index), self.source.path(index), self.source.max_megapixels
        size = plain_jpeg_size(data, path, limit)
        return decode_image(data, path, limit) if size is None else (data, size)

    def _readable(self, epoch: int, index: int) -> tuple[np.ndarray | tuple | None, int, list[Failure]]:
        failures: list[Failure] = []
        try:
            return self._image(index), index, failures
        except CorruptImage as error:
            failures.append((index, error.path, error.why))
        for other in replacements(self.seed, epoch, index, len(self.source), _TRIES - 1):
            try:
                return self._image(other), other, failures
            except CorruptImage as error:
                failures.append((other, error.path, error.why))
        return None, index, failures

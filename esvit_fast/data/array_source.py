"""Images in NumPy's files: one uint8 array [N, H, W, 3] in a .npy, or those of each split in a .npz."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from .decode import reason
from .encoded import MOST_CLASSES, UNLABELLED, NoSplit, SourceError, Strings, check_split
from .zip_source import ZIP_DAMAGE

# what NumPy's parsers raise on damaged files
_DAMAGE = (*ZIP_DAMAGE, EOFError, LookupError, MemoryError, SyntaxError, TypeError, tokenize.TokenError, zlib.error)
_NAMES = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
_FORMS = (("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("images_{}", "labels_{}"), ("{}_x", "{}_y"))
_UNDIVIDED = (("images", "labels"), ("x", "y"), ("data", "labels"), ("arr_0", "arr_1"))


class ArraySource:
    """Images of an array, mapped into memory where the file has it uncompressed."""

    def __init__(self, name: str, file: Path, key: str | None, labels: np.ndarray | None, max_megapixels: float):
        self.name, self.file, self.key = name, str(file), key
        self._images = _checked(name, load(file, key), max_megapixels)
        count = len(self._images)
        self.labels = np.full(count, UNLABELLED) if labels is None else _labels(name, labels, count)
        self.classes = tuple(map(str, range(self.labels.max() + 1)))
        self.paths = Strings(f"{key or file.stem}[{number}]" for number in range(count))

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_images": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _images=load(Path(state["file"]), state["key"]))

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> np.ndarray:
        """Pixels, uint8 RGB [H, W, 3]."""
        pixels = self._images[index].reshape(*self._images.shape[1:3], -1)[..., :3]
        return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))

    def label(self, index: int) -> int:
        """Class of an image, -1 if it has none."""
        return int(self.labels[index])

    def path(self, index: int) -> str:
        """File and place in its array."""
        return f"{self.file}/{self.paths[index]}"


def open_array(spec: str, file: Path, split: str, max_megapixels: float) -> ArraySource:
    """Open a .npy, with labels in NAME_labels.npy beside it if that exists, or a .npz with keys such as x_train and
    y_train, train_images and train_labels, or images and labels.

    Raises:
        SourceError: the file is damaged, its arrays are no images or labels, or it has no such split.
    """
    check_split(split)
    try:
        if file.suffix.lower() == ".npy":
            beside = file.with_name(f"{file.stem}_labels.npy")
            labels = load(beside, None) if beside.exists() else None
            return ArraySource(spec, file, None, labels, max_megapixels)
        key, name = _keys(spec, file, split)
        return ArraySource(spec, file, key, None if name is None else load(file, name), max_megapixels)
    except SourceError:
        raise
    except _DAMAGE as error:
        raise SourceError(f"data.source={spec!r} cannot be read: {reason(error)}; save it again") from None


def load(file: Path, key: str | None) -> np.ndarray:
    """An array of a .npy (no key) or .npz: mapped if it lies there as it is, else read into memory."""
    if key is None:
        return np.lib.format.open_memmap(file, mode="r")
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo(f"{key}.npy")
        with archive.open(member) as opened:
            if member.compress_type != zipfile.ZIP_STORED:
                return np.lib.format.read_array(opened, allow_pickle=False)
            version = np.lib.format.read_magic(opened)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, is_fortran, dtype = read(opened)
            header = opened.tell()
    with file.open("rb") as raw:
        raw.seek(member.header_offset + 26)
        lengths = np.frombuffer(raw.read(4), dtype="<u2")
    offset = member.header_offset + 30 + int(lengths.sum()) + header
    return np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape, order="F" if is_fortran else "C")


def _keys(spec: str, file: Path, split: str) -> tuple[str, str | None]:
    """Keys of the images and labels of a split in a .npz."""
    with zipfile.ZipFile(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    lower = {name.lower(): name for name in names}

    def given(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
        return ((lower[images], lower.get(labels)) for images, labels in pairs if images in lower)

    def found(part: str) -> Iterator[tuple[str, str | None]]:
        return given(tuple(form.format(name) for form in forms) for name in _NAMES[part] for forms in _FORMS)

    divided = next(found("train"), next(found("test"), None))
    keys = next(found(split) if divided else given(_UNDIVIDED), None)
    if keys is None:
        wanted = f"no {split} images" if divided else "no images"
        raise (NoSplit if divided else SourceError)(
            f"data.source={spec!r} has {wanted}, only {', '.join(names)}; "
            "name the arrays images and labels, or x_train, y_train, x_test and y_test"
        )
    return keys


def _checked(spec: str, images: np.ndarray, max_megapixels: float) -> np.ndarray:
    is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3, 4))
    if images.dtype != np.uint8 or not is_image or not images.size:
        remedy = "transpose it (0, 2, 3, 1)" if images.ndim == 4 and images.shape[1] in (1, 3, 4) else "convert it"
        remedy = "scale it to 0 to 255 and convert it" if images.dtype.kind == "f" else remedy
        raise SourceError(
            f"data.source={spec!r} must be uint8 [N, H, W, 3] or [N, H, W], is {images.dtype} {list(images.shape)}; "
            f"{remedy}"
        )
    height, width = images.shape[1:3]
    if height * width > max_megapixels * 1e6:
        raise SourceError(
            f"data.source={spec!r} has images of {width}x{height} pixels, more than max_megapixels={max_megapixels:g}; "
            "shrink them or raise data.max_megapixels"
        )
    return images


def _labels(spec: str, labels: np.ndarray, count: int) -> np.ndarray:
    flat = labels.reshape(-1)
    if len(flat) != count or labels.dtype.kind not in "iu" or flat.min() < UNLABELLED or flat.max() >= MOST_CLASSES:
        raise SourceError(
            f"data.source={spec!r} has labels {labels.dtype} {list(labels.shape)} for {count} images; "
            f"they must be one whole number below {MOST_CLASSES:,} for each, -1 for none"
        )
    return flat.astype(np.int64)

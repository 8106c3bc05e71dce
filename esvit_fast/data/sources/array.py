"""Images in NumPy's files: one uint8 array [N, H, W, 3] in a .npy, or those of each split in a .npz."""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..decode import reason
from ..layout.rule import lay_out
from ..layout.split_names import CANONICAL
from .account import Account, left_out
from .encoded import NoSplit, SourceError, Strings
from .labels import UNLABELLED, Classed, by_number, without_labels
from .opened import Opened
from .zip import ZIP_DAMAGE

# what NumPy's parsers raise on damaged files
_DAMAGE = (*ZIP_DAMAGE, EOFError, LookupError, MemoryError, SyntaxError, TypeError, tokenize.TokenError, zlib.error)
_IMAGES = {"x", "image", "images", "img", "imgs", "data", "pixels"}
_LABELS = {"y", "label", "labels", "target", "targets"}


class ArraySource:
    """Images of an array, mapped into memory where the file has it uncompressed."""

    account = Account()
    """What was understood of its arrays."""

    def __init__(self, name: str, file: Path, key: str | None, classed: Classed | None, max_megapixels: float):
        self.name, self.file, self.key = name, str(file), key
        self._images = _checked(name, load(file, key), max_megapixels)
        count = len(self._images)
        classed = without_labels(count) if classed is None else classed
        self.labels, self.classes, self.marks = classed.labels, tuple(classed.classes), classed.marks
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


class _Arrays(NamedTuple):
    """Names of the arrays of a split: None is the only one of a .npy, or no labels."""

    images: str | None
    labels: str | None = None


def open_array(spec: str, file: Path, max_megapixels: float) -> Opened:
    """Open a .npy, with labels in NAME_labels.npy beside it if that exists, or a .npz with keys such as x_train and
    y_train, train_images and train_labels, or images and labels.

    Raises:
        SourceError: the file is damaged, or its arrays are no images or labels.
    """
    try:
        if file.suffix.lower() == ".npy":
            beside = file.with_name(f"{file.stem}_labels.npy")
            labels = load(beside, None) if beside.is_file() else None
            source = partial(_source, spec, file, None, labels, None, max_megapixels)
            return Opened(spec, {"all": source}, Account("one array"))
        return _open_npz(spec, file, max_megapixels)
    except _DAMAGE as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"data.source={spec!r} cannot be read: {reason(error)}; save it again") from None


def _source(
    spec: str, file: Path, key: str | None, labels: np.ndarray | None, classes: np.ndarray | None, max_megapixels: float
) -> ArraySource:
    """A source of one array; `classes` are the labels of all splits, int64."""
    try:
        source = ArraySource(spec, file, key, None, max_megapixels)
        if labels is not None:
            own = _labels(spec, labels, len(source))
            numbered = by_number(own if classes is None else np.concatenate([own, classes]))
            classed = numbered.of(np.arange(len(own)))
            source.labels, source.classes, source.marks = classed.labels, tuple(classed.classes), own
        return source
    except _DAMAGE as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"data.source={spec!r} cannot be read: {reason(error)}; save it again") from None


def _open_npz(spec: str, file: Path, max_megapixels: float) -> Opened:
    with zipfile.ZipFile(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
    arrays, unused = _arrays(names)
    if not arrays:
        raise SourceError(f"data.source={spec!r} has no images, only {', '.join(names)}; {_REMEDY}")
    given = {word: None if of.labels is None else load(file, of.labels) for word, of in arrays.items()}
    keys = [of.images for of in arrays.values()]
    paths = [f"{word}/{key}" if word else key for word, key in zip(arrays, keys, strict=True)]
    layout = lay_out(spec, paths, labelled=np.array([labels is not None for labels in given.values()]))
    whole = (labels for labels in given.values() if labels is not None and labels.dtype.kind in "iu")
    every = [labels.reshape(-1).astype(np.int64) for labels in whole]
    classes = np.concatenate(every) if every else None
    parts = {
        split: partial(_source, spec, file, keys[row], list(given.values())[row], classes, max_megapixels)
        for split, (row,) in layout.splits.items()
    }
    for split in {"train", "test"} - parts.keys() if "all" not in parts else ():
        parts[split] = partial(_missing, spec, split, names)
    splits = ", ".join(f"{split}: {keys[row]}" for split, (row,) in layout.splits.items())
    account = Account(splits, (*layout.account.left_out, *left_out("arrays that are not used", unused)))
    return Opened(spec, parts, account)


_REMEDY = "name the arrays images and labels, or x_train, y_train, x_test and y_test"


def _missing(spec: str, split: str, names: list[str]) -> ArraySource:
    raise NoSplit(f"data.source={spec!r} has no {split} images, only {', '.join(names)}; {_REMEDY}")


def _arrays(names: list[str]) -> tuple[dict[str, _Arrays], list[str]]:
    """The arrays of each split, by the words of `split_names.WORDS`, "" if they are not divided; and those of none."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        tokens = [part for token in re.findall(r"[a-z]+", name.lower()) for part in _apart(token)]
        words = {CANONICAL[token] for token in tokens if token in CANONICAL}
        others = {token for token in tokens if token not in CANONICAL}
        role = "labels" if others & _LABELS else "images"
        if len(words) <= 1 and others <= (_LABELS if role == "labels" else _IMAGES) and tokens:
            found.setdefault(next(iter(words), ""), {}).setdefault(role, name)
    if not found and "arr_0" in names:
        found[""] = {"images": "arr_0"} | ({"labels": "arr_1"} if "arr_1" in names else {})
    arrays = {word: _Arrays(of["images"], of.get("labels")) for word, of in found.items() if "images" in of}
    if len(arrays) > 1:
        arrays.pop("", None)
    used = {name for of in arrays.values() for name in of}
    return arrays, [name for name in names if name not in used]


def _apart(token: str) -> list[str]:
    """xtrain as x and train."""
    return [token[0], token[1:]] if token[0] in "xy" and token[1:] in CANONICAL else [token]


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
    if len(flat) != count or labels.dtype.kind not in "iu" or flat.astype(np.int64).min() < UNLABELLED:
        raise SourceError(
            f"data.source={spec!r} has labels {labels.dtype} {list(labels.shape)} for {count} images; "
            "they must be one whole number from 0 on for each, -1 for none"
        )
    return flat.astype(np.int64)

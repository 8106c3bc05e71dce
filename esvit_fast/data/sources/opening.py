"""Opening a source by its specification."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...errors import UserError
from ...registry import Registry
from .encoded import NoSplit, Source, SourceError
from .files import expand, is_pattern
from .lists import LISTS, open_list
from .opened import Opened

Open = Callable[[str, str, float], Opened]
"""From a specification, what stands behind its scheme (or its path), and the megapixels above which an image is
refused."""

SCHEMES: Registry[Open] = Registry("source")
SUFFIXES: Registry[Open] = Registry("kind of file")
_COMPRESSED = (".gz", ".tgz", ".xz", ".txz", ".bz2", ".tbz2", ".zst", ".7z", ".rar")


def register_source(*, scheme: str = "", suffix: str = "") -> Callable[[Open], Open]:
    """Let data.source name a kind of source of your own: a decorator of the function that looks at one.

    Args:
        scheme: of specifications such as SCHEME:REST; the function gets REST.
        suffix: of files, such as ".lmdb"; the function gets the path.

    Raises:
        UserError: neither or both are given.
    """
    if bool(scheme) == bool(suffix):
        raise UserError(f"scheme={scheme!r} and suffix={suffix!r}: one of them must be given")
    return lambda open: SCHEMES.register(open, scheme) if scheme else SUFFIXES.register(open, suffix.lower())


def open_source(spec: str, split: str = "train", max_megapixels: float = 64.0) -> Source:
    """Open the images that a specification names.

    Args:
        spec: a folder; a list (.txt, .csv, .tsv) of paths relative to it, with labels and splits in further columns; a
            .zip or uncompressed .tar; .tar shards or .parquet files, as a folder, list, wildcards (`shards/*.tar`) or
            range (`shards/{000..127}.tar`); a .npy or .npz; `torchvision:NAME@ROOT`; `sample` or `sample:COUNT`, the
            procedural set.
        split: "train" or "test", divided as `layout` says; what is not divided is the same images for both.
        max_megapixels: larger images are refused before they are decoded.

    Raises:
        SourceError: nothing is there, it cannot be read, or it has no images.
    """
    return look_at(spec, max_megapixels).take(split)


def open_test(spec: str, max_megapixels: float = 64.0) -> Source | None:
    """The images for testing; None where a source is divided, but has none. Other errors are those of `open_source`."""
    try:
        return open_source(spec, "test", max_megapixels)
    except NoSplit:
        return None


def open_splits(spec: str, max_megapixels: float = 64.0) -> dict[str, Source]:
    """Open a source as `train` and `test`, or the one of these that it has; or, if it is not divided, as `all`."""
    return look_at(spec, max_megapixels).splits()


def look_at(spec: str, max_megapixels: float = 64.0) -> Opened:
    """What a specification names, and how it is divided; arguments and errors are those of `open_source`."""
    scheme, _, rest = spec.partition(":")
    if scheme == "sample":
        from .sample import open_sample

        return open_sample(spec, rest)
    if scheme == "torchvision":
        from .torchvision import open_torchvision

        return open_torchvision(spec, rest, max_megapixels)
    if scheme in SCHEMES:
        return SCHEMES[scheme](spec, rest, max_megapixels)
    path = Path(os.path.expanduser(spec))
    if is_pattern(spec) and not path.exists():
        from .shard_files import open_files

        return open_files(spec, expand(spec), max_megapixels)
    if not spec or not path.exists():
        away = "is not on this machine; copy it to a disk, and" if "://" in spec else "does not exist;"
        raise SourceError(
            f"data.source={spec!r} {away} pass a folder, a list ({' '.join(LISTS)}), a .zip or .tar of "
            "images, shards ('*.tar', '{000..127}.tar'), .parquet, .npy, .npz, torchvision:NAME@ROOT, or sample"
        )
    if path.is_dir():
        from .folder import open_folder

        return open_folder(spec, path, max_megapixels)
    if not path.is_file():
        raise SourceError(f"data.source={spec!r} is a pipe, socket or device; pass a file or folder")
    return _open_file(spec, path, max_megapixels)


def _open_file(spec: str, path: Path, max_megapixels: float) -> Opened:
    suffix = path.suffix.lower()
    if suffix in LISTS:
        return open_list(spec, path, max_megapixels)
    if suffix == ".zip":
        from .zip import open_zip

        return open_zip(spec, path, max_megapixels)
    if suffix == ".tar":
        from .shards import open_tar

        return open_tar(spec, path, max_megapixels)
    if suffix == ".parquet":
        from .shard_files import open_files

        return open_files(spec, [path], max_megapixels)
    if suffix in (".npy", ".npz"):
        from .array import open_array

        return open_array(spec, path, max_megapixels)
    if suffix in SUFFIXES:
        return SUFFIXES[suffix](spec, str(path), max_megapixels)
    if suffix in _COMPRESSED:
        raise SourceError(
            f"data.source={spec!r} is compressed, so its images cannot be read in random order; "
            "unpack it to an uncompressed .tar or to a folder"
        )
    raise SourceError(
        f"data.source={spec!r} is neither a folder, nor a {' '.join(LISTS)} list, nor a .zip, .tar, .parquet, .npy or "
        ".npz"
    )

"""Images inside a .zip or .tar, read in any order from their offsets; nothing is ever extracted to disk."""

from __future__ import annotations

import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .encoded import SPLITS, EncodedSource, SourceError, is_image_path, label_by_folder, nothing_found, split_folder

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_SPLIT_FOLDERS = {name for names in SPLITS.values() for name in names}


class Member(NamedTuple):
    """Where an image lies in its archive: `stored` bytes at `offset`, `size` bytes when unpacked."""

    path: str
    offset: int
    stored: int
    size: int
    crc: int = 0
    deflated: bool = False


class ArchiveSource(EncodedSource):
    """Images in one archive, opened on first use; reads name their position, so a forked process may share the file."""

    def __init__(
        self, name: str, file: Path, members: list[Member], labels: list[int], classes: list[str], max_megapixels: float
    ):
        super().__init__(name, [member.path for member in members], labels, classes, max_megapixels)
        self.file = str(file)
        self.places = np.array([member[1:] for member in members], dtype=np.int64)  # [N, 5]
        self._descriptor: int | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)

    def path(self, index: int) -> str:
        """Archive and member."""
        return f"{self.file}/{self.paths[index]}"

    def read(self, index: int) -> bytes:
        """The unpacked bytes of a member."""
        offset, stored, size, crc, deflated = self.places[index].tolist()
        self.check_bytes(index, max(stored, size))
        return self.unpack(offset, stored, size, crc, deflated)

    def unpack(self, offset: int, stored: int, size: int, crc: int, deflated: bool) -> bytes:
        """The bytes of the member at a place; raises OSError if it is damaged."""
        raise NotImplementedError

    def pread(self, size: int, offset: int) -> bytes:
        """Bytes of the archive; raises OSError if it ends before."""
        if self._descriptor is None:
            self._descriptor = os.open(self.file, os.O_RDONLY)
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size:
            raise OSError("the archive ends before the image does")
        return data


class TarSource(ArchiveSource):
    """Images in an uncompressed .tar."""

    def unpack(self, offset: int, stored: int, size: int, crc: int, deflated: bool) -> bytes:
        """The bytes of a member; a .tar has no checksums of contents."""
        return self.pread(size, offset)


class ZipSource(ArchiveSource):
    """Images in a .zip, stored or deflated."""

    def unpack(self, offset: int, stored: int, size: int, crc: int, deflated: bool) -> bytes:
        """The bytes of a member, checked against its CRC-32."""
        signature, name, extra = _LOCAL_HEADER.unpack(self.pread(_LOCAL_HEADER.size, offset))
        if signature != b"PK\3\4":
            raise OSError("the archive's directory points to no member")
        data = self.pread(stored, offset + _LOCAL_HEADER.size + name + extra)
        if deflated:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size)
            except zlib.error as error:
                raise OSError(f"it cannot be unpacked: {error}") from None
        if len(data) != size or zlib.crc32(data) != crc:
            raise OSError("its checksum in the archive is wrong")
        return data


def open_archive(spec: str, file: Path, split: str, max_megapixels: float) -> ArchiveSource:
    """Open a .zip or .tar; folders in it mean what they mean in an image folder, a folder around everything is ignored.

    Raises:
        SourceError: it is damaged, compressed as a whole, encrypted, or has no images.
    """
    is_zip = file.suffix.lower() == ".zip"
    try:
        members = _zip_members(spec, file) if is_zip else _tar_members(file)
    except (zipfile.BadZipFile, tarfile.TarError, OSError) as error:
        kind = "a .zip" if is_zip else "an uncompressed .tar"
        raise SourceError(f"data.source={spec!r} cannot be read as {kind}: {error}; check it, or unpack it") from None
    images = sorted(member for member in members if is_image_path(member.path))
    if not images:
        raise nothing_found(spec, "the archive")
    chosen, labels, classes = _select(spec, [member.path for member in images], split)
    kind = ZipSource if is_zip else TarSource
    return kind(spec, file, [images[row] for row in chosen], labels, classes, max_megapixels)


def _select(spec: str, paths: list[str], split: str) -> tuple[list[int], list[int], list[str]]:
    """Which of the paths are in a split, their labels, and the classes of all splits."""
    while len(tops := {path.split("/", 1)[0] for path in paths}) == 1 and not tops & _SPLIT_FOLDERS and "/" in paths[0]:
        paths = [path.split("/", 1)[1] for path in paths]  # a folder around everything
    has_folders: dict[str, bool] = {}
    for path in paths:
        top, *below = path.split("/")
        if below:
            has_folders[top] = has_folders.get(top, False) or len(below) > 1
    part = split_folder(spec, has_folders, split)
    if part is None:
        return list(range(len(paths))), *label_by_folder(paths)
    inside = [path.partition("/")[2] for path in paths if path.partition("/")[0] in _SPLIT_FOLDERS]
    chosen = [row for row, path in enumerate(paths) if path.startswith(f"{part}/")]
    _, classes = label_by_folder(inside)
    return chosen, *label_by_folder([paths[row].partition("/")[2] for row in chosen], classes)


def _zip_members(spec: str, file: Path) -> list[Member]:
    with zipfile.ZipFile(file) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
    members = []
    for i in infos:
        if i.flag_bits & 1 or i.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = "encrypted" if i.flag_bits & 1 else f"compressed by method {i.compress_type}"
            raise SourceError(f"data.source={spec!r}: {i.filename} is {how}; pack the images stored or deflated")
        deflated = i.compress_type == zipfile.ZIP_DEFLATED
        members.append(Member(i.filename, i.header_offset, i.compress_size, i.file_size, i.CRC, deflated))
    return members


def _tar_members(file: Path) -> list[Member]:
    members = []
    with tarfile.open(file, "r:") as archive:
        while (info := archive.next()) is not None:
            if info.isreg() and not info.issparse():
                members.append(Member(info.name.removeprefix("./").lstrip("/"), info.offset_data, info.size, info.size))
            archive.members.clear()  # it would keep every header in memory
    return members

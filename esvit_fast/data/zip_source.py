"""Images inside a .zip, read in any order from their offsets; nothing is ever extracted to disk."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .decode import reason
from .encoded import EncodedSource, SourceError, is_image_path, nothing_found, select_split
from .files import Files

ZIP_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, ArithmeticError, struct.error)
"""What zipfile raises on damaged archives."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field


class ZipSource(EncodedSource):
    """Images in a .zip, stored or deflated."""

    def __init__(
        self,
        name: str,
        file: Path,
        members: Sequence[zipfile.ZipInfo],
        labels: Sequence[int],
        classes: Sequence[str],
        max_megapixels: float,
    ):
        super().__init__(name, [member.filename for member in members], labels, classes, max_megapixels)
        self.files = Files([file])
        places = [(m.header_offset, m.compress_size, m.file_size, m.CRC, _is_deflated(m)) for m in members]
        self.places = np.array(places, dtype=np.int64)  # [N, 5]

    def path(self, index: int) -> str:
        """Archive and member."""
        return f"{self.files.paths[0]}/{self.paths[index]}"

    def read(self, index: int) -> bytes:
        """The unpacked bytes of a member, checked against its CRC-32; raises OSError if it is damaged."""
        offset, stored, size, crc, deflated = self.places[index].tolist()
        self.check_bytes(index, max(stored, size))
        signature, name, extra = _LOCAL_HEADER.unpack(self.files.read(0, _LOCAL_HEADER.size, offset))
        if signature != b"PK\3\4":
            raise OSError("the archive's directory points to no member")
        data = self.files.read(0, stored, offset + _LOCAL_HEADER.size + name + extra)
        if deflated:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)  # 0 would be no limit
            except zlib.error as error:
                raise OSError(f"it cannot be unpacked: {error}") from None
        if len(data) != size or zlib.crc32(data) != crc:
            raise OSError("its checksum in the archive is wrong")
        return data


def open_zip(spec: str, file: Path, split: str, max_megapixels: float) -> ZipSource:
    """Open a .zip; folders in it mean what they mean in an image folder, a folder around everything is ignored.

    Raises:
        SourceError: it is damaged, encrypted, or has no images.
    """
    try:
        members = _members(spec, file)
        images = sorted((member for member in members if is_image_path(member.filename)), key=lambda m: m.filename)
        if not images:
            raise nothing_found(spec, "the archive")
        chosen, labels, classes = select_split(spec, [member.filename for member in images], split)
        return ZipSource(spec, file, [images[row] for row in chosen], labels, classes, max_megapixels)
    except SourceError:
        raise
    except ZIP_DAMAGE as error:
        raise SourceError(
            f"data.source={spec!r} cannot be read as a .zip: {reason(error)}; check it, or unpack it"
        ) from None


def _members(spec: str, file: Path) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    for m in members:
        if m.flag_bits & 1 or m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = "encrypted" if m.flag_bits & 1 else f"compressed by method {m.compress_type}"
            raise SourceError(f"data.source={spec!r}: {m.filename} is {how}; pack the images stored or deflated")
    return members


def _is_deflated(member: zipfile.ZipInfo) -> bool:
    return member.compress_type == zipfile.ZIP_DEFLATED

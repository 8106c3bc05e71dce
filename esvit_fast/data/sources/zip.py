"""Images inside a .zip, read in any order from their offsets; nothing is ever extracted to disk."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from ..decode import reason
from ..layout.rule import lay_out
from .account import Account, LeftOut, left_out
from .content import HEAD, sort_out
from .encoded import EncodedSource, SourceError, nothing_found
from .files import Files
from .labels import Classed
from .links import follow, plain, target_of
from .marks import marks_of
from .opened import Opened

ZIP_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError, ArithmeticError, struct.error)
"""What zipfile raises on damaged archives."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field


class ZipSource(EncodedSource):
    """Images in a .zip, stored or deflated."""

    def __init__(
        self,
        name: str,
        file: Path,
        names: Sequence[str],
        places: np.ndarray,
        classed: Classed,
        max_megapixels: float,
    ):
        super().__init__(name, names, classed, max_megapixels)
        self.files = Files([file])
        self.places = places  # int64 [N, 5]

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


def open_zip(spec: str, file: Path, max_megapixels: float) -> Opened:
    """Open a .zip, in the order of its members' names, divided and labelled by its folders.

    Raises:
        SourceError: it is damaged, encrypted, or has no images.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members, entries = _members(spec, archive)
            names = sorted(members)
            rows, others = sort_out(names, lambda row: _head(archive, members[names[row]]))
        names = [names[row] for row in rows]
        account = Account("", (*entries, *others))
        if not names:
            raise nothing_found(spec, "the archive", account)
        places = np.array([_place(members[name]) for name in names], dtype=np.int64)
        layout = lay_out(spec, names)

        def part(split: str) -> ZipSource:
            chosen = layout.splits[split]
            own = [names[row] for row in chosen.tolist()]
            classed = replace(
                Classed(layout.labels, layout.classes).of(chosen), marks=marks_of(names, chosen, around=True)
            )
            return ZipSource(spec, file, own, places[chosen], classed, max_megapixels)

        return Opened(spec, {split: partial(part, split) for split in layout.splits}, layout.account.joined(account))
    except SourceError:
        raise
    except ZIP_DAMAGE as error:
        raise SourceError(
            f"data.source={spec!r} cannot be read as a .zip: {reason(error)}; check it, or unpack it"
        ) from None


def _members(spec: str, archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], list[LeftOut]]:
    """The files of an archive by their names, links followed, and what was left out."""
    found: dict[str, zipfile.ZipInfo] = {}
    links: dict[str, str] = {}
    special: list[str] = []
    twice: list[str] = []
    for member in archive.infolist():
        name = plain(member.filename)
        mode = member.external_attr >> 16
        if member.is_dir() or name.endswith("/") or not name:
            continue
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            how = "encrypted" if member.flag_bits & 1 else f"compressed by method {member.compress_type}"
            raise SourceError(f"data.source={spec!r}: {name} is {how}; pack the images stored or deflated")
        if stat.S_ISLNK(mode):
            links[name] = target_of(name, archive.read(member).decode("utf-8", "surrogateescape"))
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            special.append(name)
        else:
            twice += [name] if name in found else []
            found[name] = member
    followed, nowhere = follow(found, links)
    for members in followed.values():
        found |= members
    return found, [
        *left_out("links that lead nowhere", nowhere),
        *left_out("pipes, sockets or devices", special),
        *left_out("another member of the same name follows", twice),
    ]


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as opened:
            return opened.read(HEAD)
    except ZIP_DAMAGE as error:
        raise OSError(reason(error)) from None


def _place(member: zipfile.ZipInfo) -> tuple[int, int, int, int, bool]:
    deflated = member.compress_type == zipfile.ZIP_DEFLATED
    return member.header_offset, member.compress_size, member.file_size, member.CRC, deflated

"""The members of a .tar, of those behind its end, and of those inside of it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .account import LeftOut, left_out
from .links import follow, plain, target_of

BLOCK = 512

_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
_CHUNK = 2**20


class ShardError(Exception):
    """A .tar that cannot be used: `file`, and as text why, and what to do about it."""

    def __init__(self, file: Path, why: str):
        super().__init__(why)
        self.file = file


class Place(NamedTuple):
    """Where the bytes of a member are."""

    offset: int
    size: int


def members_of(file: Path, opened: BinaryIO) -> tuple[dict[str, Place], list[LeftOut]]:
    """All files in a .tar, in its order, and what was left out.

    Links stand for what they lead to. A .tar in it is a folder of its name; one behind its end, as `cat` makes it,
    belongs to it. Of members of the same name the last counts, as when it is unpacked.

    Raises:
        ShardError: it is empty, compressed, damaged, or ends early.
    """
    start = opened.read(6)
    if kind := next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None):
        raise ShardError(file, f"is compressed ({kind}), so its images cannot be read in random order; decompress it")
    if not start:
        raise ShardError(file, "is empty, 0 bytes; fetch or pack it again, or leave it out")
    found: dict[str, Place | str] = {}
    twice: list[str] = []
    others: dict[str, list[str]] = {"sparse members of a .tar": [], "pipes, sockets or devices": []}
    for name, what in _walk(file, opened, 0, None, others):
        if found.pop(name, None) is not None:
            twice.append(name)
        found[name] = what
    places = {name: what for name, what in found.items() if isinstance(what, Place)}
    links = {name: what for name, what in found.items() if isinstance(what, str)}
    if links:
        followed, nowhere = follow(places, links)
        others["links that lead nowhere"] = nowhere
        places = {
            own: place
            for name, what in found.items()
            for own, place in (followed.get(name, {}) if isinstance(what, str) else {name: what}).items()
        }
    others["another member of the same name follows"] = twice
    return places, [entry for why, names in others.items() for entry in left_out(why, names)]


def _walk(
    file: Path, opened: BinaryIO, offset: int, end: int | None, others: dict[str, list[str]], prefix: str = ""
) -> Iterator[tuple[str, Place | str]]:
    """Names with their places, or where they lead, from an offset on; up to an end if the archive is inside another."""
    while offset is not None:
        try:
            opened.seek(offset)
            with tarfile.open(fileobj=opened, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # it would keep every header in memory
                    yield from _member(file, opened, archive, member, others, prefix)
                offset = archive.offset
        except (tarfile.ReadError, ValueError) as error:  # the latter of sizes beyond 63 bits
            early = str(error) == "unexpected end of data"
            why = "ends early" if early else f"is damaged ({error})"
            raise ShardError(file, f"{why}; fetch or pack it again") from None
        opened.seek(offset)
        block = opened.read(BLOCK)
        if block != bytes(BLOCK):  # tarfile takes any end for the end
            what = "ends early" if len(block) < BLOCK else f"is damaged at byte {offset:,}"
            raise ShardError(file, f"{what}; fetch or pack it again")
        offset = _behind_zeros(opened, offset + BLOCK, end)
        if offset is not None and not _is_tar(opened, offset):
            others["data behind its end that are no .tar"] = [f"{prefix or file.name} from byte {offset:,} on"]
            offset = None


def _member(
    file: Path, opened: BinaryIO, archive: tarfile.TarFile, member: tarfile.TarInfo, others: dict, prefix: str
) -> Iterator[tuple[str, Place | str]]:
    name = prefix + plain(member.name)
    if member.isdir():
        return
    if member.issym():
        yield name, target_of(name, member.linkname)
    elif member.islnk():
        yield name, prefix + plain(member.linkname)
    elif not member.isreg():
        others["pipes, sockets or devices"].append(name)
    elif member.issparse():
        others["sparse members of a .tar"].append(name)
    elif name.lower().endswith(".tar") and member.size >= 2 * BLOCK and _is_tar(opened, member.offset_data):
        at = member.offset_data
        yield from _walk(file, opened, at, at + member.size, others, f"{name[: -len('.tar')]}/")
    else:
        yield name, Place(member.offset_data, member.size)


def _is_tar(opened: BinaryIO, offset: int) -> bool:
    opened.seek(offset)
    try:
        tarfile.TarInfo.frombuf(opened.read(BLOCK), "utf-8", "surrogateescape")  # checks its checksum
    except tarfile.HeaderError:
        return False
    return True


def _behind_zeros(opened: BinaryIO, offset: int, end: int | None) -> int | None:
    """Where something follows the end of an archive; None if there are only zeros."""
    opened.seek(offset)
    while chunk := opened.read(_CHUNK if end is None else min(_CHUNK, max(0, end - offset))):
        if rest := chunk.lstrip(b"\0"):
            return offset + (len(chunk) - len(rest)) // BLOCK * BLOCK
        offset += len(chunk)
    return None


def head_reader(opened: BinaryIO, places: list[Place], size: int) -> Callable[[int], bytes]:
    """A function that gives the first bytes of a member by its number."""

    def head(row: int) -> bytes:
        opened.seek(places[row].offset)
        return opened.read(min(size, places[row].size))

    return head

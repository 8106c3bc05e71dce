"""Links inside of an archive, followed to its members."""

from __future__ import annotations

import posixpath
from bisect import bisect_left
from typing import TypeVar

T = TypeVar("T")
_LONGEST = 40


def plain(name: str) -> str:
    r"""A member's name without what changes nothing: a leading / or ./, doubled /, and steps back; with / for \."""
    name = name.replace("\\", "/").removeprefix("./").lstrip("/")
    return posixpath.normpath(name) if "//" in name or "/./" in name or ".." in name else name


def target_of(name: str, target: str) -> str:
    """Where a symbolic link leads, from the archive's top; it begins with .. if that is outside."""
    target = target.replace("\\", "/")
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target)).lstrip("/")


def follow(members: dict[str, T], links: dict[str, str]) -> tuple[dict[str, dict[str, T]], list[str]]:
    """Links with what they stand for, by name: one member, or those of a folder; and links that lead to nothing.

    Links in a folder that another leads to are not followed, nor is a link to a folder that encloses it.
    """
    found: dict[str, dict[str, T]] = {}
    nowhere: list[str] = []
    ordered: list[str] | None = None
    for name, target in links.items():
        for _ in range(_LONGEST):
            if target in members or target not in links:
                break
            target = links[target]
        if target in members:
            found[name] = {name: members[target]}
            continue
        ordered = sorted(members) if ordered is None else ordered
        prefix = f"{target}/" if target != "." else ""
        first = bisect_left(ordered, prefix)
        last = bisect_left(ordered, f"{target}0") if prefix else len(ordered)  # 0 follows / in ASCII
        if first == last or f"{name}/".startswith(prefix):
            nowhere.append(name)
        else:
            found[name] = {f"{name}/{one[len(prefix) :]}": members[one] for one in ordered[first:last]}
    through = {name: member for members_of in found.values() for name, member in members_of.items()}
    found |= {name: {name: through[links[name]]} for name in nowhere if links[name] in through}
    return found, [name for name in nowhere if name not in found]

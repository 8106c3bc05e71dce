"""What all ranks of a run must have alike, and in what they differ: found before the first step, not in its results."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..config import Config, settings
from ..data import CorruptImage, Fingerprint, Source, changes
from ..errors import UserError
from ..parallel.ranks import Ranks, gather
from ..runs.checkpoint import MANIFEST, Checkpoint

_OF_A_MACHINE = ("data.source", "data.workers", "train.device")
"""Settings that may differ: where images lie, and how a machine reads them; which ones they are is compared."""
_SECONDS, _MOST = 1.0, 4096
"""How long, and of how many images at most, the bytes are compared."""


def agree_on_settings(command: str, out: Path, config: Config | None) -> None:
    """Refuse ranks that were started with other settings, or by another version.

    Args:
        config: None: that of the run.

    Raises:
        UserError: on all ranks, with what differs and how.
    """
    given = dict(settings(config)) if config else {}
    facts = {name: value for name, value in given.items() if name not in _OF_A_MACHINE}
    _agree({"esvit_fast": __version__, "torch": torch.__version__, "command": command, "out": str(out)} | facts)


def _agree(facts: Mapping[str, Any]) -> None:
    first, *others = gather([{name: str(value) for name, value in facts.items()}])
    for rank, other in enumerate(others, start=1):
        differ = [name for name in {**first, **other} if first.get(name) != other.get(name)]
        if differ:
            told = ", ".join(f"{name}={other.get(name)} instead of {first.get(name)}" for name in differ)
            raise UserError(f"rank {rank} was started with {told} on rank 0; start all ranks alike")


def agree_on_images(source: Source, found: Fingerprint, ranks: Ranks) -> None:
    """Refuse ranks that see other images: other names, labels or numbers of all, or other bytes of some.

    Of at most 4,096 images, as many as are read in a second, the bytes are compared.

    Raises:
        UserError: on all ranks, with what differs.
    """
    if ranks.world_size == 1:
        return
    hashes = gather([found["sha256"]])
    if len(set(hashes)) > 1:
        first, *others = gather([found])
        rank, other = next((r, o) for r, o in enumerate(others, start=1) if o["sha256"] != first["sha256"])
        told = changes(first, other, ("on rank 0", f"on rank {rank}"))
        raise UserError(f"rank {rank} sees other images than rank 0: {told}; give all ranks the same")
    order = random.Random(0).sample(range(len(source)), min(len(source), _MOST))
    first, *others = gather([_contents(source, order)])
    for rank, other in enumerate(others, start=1):
        for index, mine, theirs in zip(order, first, other, strict=False):
            if mine != theirs:
                raise UserError(
                    f"rank {rank} reads other bytes of image {index:,}, {source.path(index)!r}, than rank 0; "
                    "give all ranks the same images"
                )


def _contents(source: Source, order: list[int]) -> list[str]:
    """Digests of images, in this order, of as many as there is time for."""
    digests, end = [], time.monotonic() + _SECONDS
    for index in order:
        try:
            data = source.encoded(index) if hasattr(source, "encoded") else source.image(index).tobytes()
            digests.append(hashlib.sha256(data).hexdigest()[:16])
        except CorruptImage:
            digests.append("unreadable")
        if time.monotonic() > end:
            break
    return digests


def agree_on_checkpoint(checkpoint: Checkpoint | None, out: Path) -> None:
    """Refuse ranks that go on from other checkpoints.

    Raises:
        UserError: on all ranks, with the steps.
    """
    facts = (0, "") if checkpoint is None else (checkpoint.step, (checkpoint.path / MANIFEST).read_text())
    first, *others = gather([facts])
    for rank, other in enumerate(others, start=1):
        if other != first:
            same = "another one of " if other[0] == first[0] else ""
            raise UserError(
                f"run={str(out)!r}: ranks found different checkpoints, rank {rank} {same}step {other[0]} and rank 0 "
                f"step {first[0]}; it must be a folder that all share"
            )

"""How the processes of a run find each other, and what is said when one does not come."""

from __future__ import annotations

import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import timedelta
from typing import NamedTuple, TypeVar

import torch.distributed as dist

from ..errors import UserError

SECONDS = 120.0
"""How long ranks wait for each other at first; the environment variable ESVIT_FAST_MEETING_SECONDS changes it."""
_KNOWN = 10.0  # in which a name must be found, unless it is said how long, and a machine find itself
_AGENT = 5.0  # in which torchrun's store answers, which was there first
_POLL = 0.05
_PREFIX = "restart"
_LONGER = "let ranks wait longer (ESVIT_FAST_MEETING_SECONDS)"
_T = TypeVar("_T")


class Place(NamedTuple):
    """Where a process stands among those of a run, and where they meet."""

    rank: int
    local_rank: int
    world_size: int
    host: str
    port: int

    def __str__(self) -> str:
        return f"MASTER_ADDR={self.host} MASTER_PORT={self.port}"


def place() -> Place | None:
    """What the environment says of this process; None if it is to be alone.

    Raises:
        UserError: a part is missing or cannot be.
    """
    if "WORLD_SIZE" not in os.environ:
        if os.environ.get("RANK", "0") != "0":
            raise UserError(f"RANK={os.environ['RANK']} without WORLD_SIZE; start with torchrun, or unset it")
        return None
    world_size = _number("WORLD_SIZE", 1)
    if world_size == 1:
        if "RANK" in os.environ:
            _number("RANK", 0, 0)
        return None
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(f"WORLD_SIZE={world_size} without {', '.join(missing)}; start with torchrun, or unset it")
    rank, local_rank = _number("RANK", 0, world_size - 1), _number("LOCAL_RANK", 0, world_size - 1)
    return Place(rank, local_rank, world_size, os.environ["MASTER_ADDR"], _number("MASTER_PORT", 1, 2**16 - 1))


def _number(name: str, least: int, most: int | None = None) -> int:
    value = os.environ[name]
    number = int(value) if value.strip().lstrip("-").isdecimal() else None
    if number is None or number < least or (most is not None and number > most):
        upper = "" if most is None else f" and at most {most}"
        of = f" with WORLD_SIZE={os.environ['WORLD_SIZE']}" if "RANK" in name else ""
        raise UserError(
            f"{name}={value!r} must be a whole number, at least {least}{upper}{of}; start with torchrun, or correct it"
        )
    return number


def _patience() -> float:
    value = os.environ.get("ESVIT_FAST_MEETING_SECONDS", str(SECONDS))
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 10**6:
        raise UserError(f"ESVIT_FAST_MEETING_SECONDS={value!r} must be a number of seconds above 0")
    return seconds


def meet(here: Place) -> dist.Store:
    """The store of a run in which all of its ranks are, this one too.

    torchrun keeps one store for all its restarts, in which a rank must not find where another one listened before it
    was killed. Several nodes may count restarts differently; their agents have met before they start ranks.

    Raises:
        UserError: a rank has not come, or is there twice, or another number of them is expected by another one.
    """
    patience = _patience()
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = here.rank == 0 and not of_agent
    begin = time.monotonic()
    if not serves:
        _reach(here, begin + (_AGENT if of_agent else patience), patience)
    try:
        store = _store(here, serves, patience)
    except dist.DistError as error:
        if serves and "EADDRINUSE" in str(error):
            _refuse_second(here)
        raise
    if serves:
        _reach(here, begin + min(_KNOWN, patience), patience)
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if not _on_several_nodes():
        store = dist.PrefixStore(f"{_PREFIX} {restart}", store)
        _gather(store, here, begin + patience, patience)
    return store


def _store(here: Place, serves: bool, seconds: float) -> dist.Store:
    """The store that a rank serves, or joins. It would wait for ever for an answer from somebody who is none."""
    host, limit = "localhost" if serves else here.host, timedelta(seconds=seconds)
    return _within(
        seconds + 1.0,
        lambda: dist.TCPStore(host, here.port, is_master=serves, timeout=limit, wait_for_workers=False),
        f"{here}: who answers there is no rank of a run; correct it, or choose a free port",
    )


def join(make: Callable[[], None], here: Place) -> None:
    """Make a group of ranks. Those of several nodes have not been counted, and are waited for here.

    Raises:
        UserError: not all of them came in time.
    """
    if not _on_several_nodes():
        return make()
    patience = _patience()
    _within(
        patience,
        make,
        f"{here}: not all of {here.world_size} ranks came within {patience:g} s, rank {here.rank} did; see why on the "
        f"other machines, start them, or {_LONGER}",
    )


def _on_several_nodes() -> bool:
    return os.environ.get("GROUP_WORLD_SIZE", "1") != "1"


def _within(seconds: float, make: Callable[[], _T], late: str) -> _T:
    """What a call gives that might never come back; a UserError when it is late."""
    made: Future[_T] = Future()

    def call() -> None:
        try:
            made.set_result(make())
        except (RuntimeError, ValueError, OSError) as error:
            made.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    try:
        return made.result(seconds)
    except FutureTimeout:
        if made.done():
            raise
        raise UserError(late) from None


def _refuse_second(here: Place) -> None:
    """Where a first rank 0 listens, tell it and all others that there is a second one."""
    try:
        store = dist.PrefixStore(f"{_PREFIX} 0", _store(here, False, _AGENT))
        host, pid = json.loads(store.get("rank 0"))  # waits: who listens says its name a moment later
    except (ValueError, dist.DistError):
        return  # it is somebody else who listens there
    _refuse(store, here, f"RANK=0 is there twice, as pid {os.getpid()} and as pid {pid} on {host}")


def _reach(here: Place, until: float, patience: float) -> None:
    """Wait until somebody listens where the ranks meet, quietly, as the store would not."""
    said = "ESVIT_FAST_MEETING_SECONDS" in os.environ
    begin, known = time.monotonic(), patience if said else min(_KNOWN, patience)
    while True:
        try:
            with socket.create_connection((here.host, here.port), timeout=max(0.1, min(3.0, until - time.monotonic()))):
                return
        except socket.gaierror as error:
            wait = patience if error.errno == socket.EAI_AGAIN else known  # who knows names may not be there yet
            if time.monotonic() > begin + wait:
                raise UserError(
                    f"{here}: no machine of that name is known after {wait:g} s ({error.strerror}); correct it, or "
                    f"{_LONGER}"
                ) from None
        except OSError as error:
            if time.monotonic() > until:
                raise UserError(
                    f"{here}: nobody answers there ({error.strerror or error}); {_remedy(here, patience)}"
                ) from None
        time.sleep(_POLL)


def _remedy(here: Place, patience: float) -> str:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return "torchrun, which started this rank, has ended; start it again, with --resume"
    if here.rank == 0:
        return "it must lead to the machine of rank 0, which is this one"
    return (
        f"check that rank 0 has been started on that machine, or let ranks wait longer than {patience:g} s "
        "(ESVIT_FAST_MEETING_SECONDS)"
    )


def _gather(store: dist.Store, here: Place, until: float, patience: float) -> None:
    """Wait until all ranks are there, once each."""
    me = json.dumps([platform.node(), os.getpid()])
    expected = int(store.compare_set("ranks", "", str(here.world_size)))
    if expected != here.world_size:
        _refuse(store, here, f"WORLD_SIZE={here.world_size} on rank {here.rank}, but {expected} on another one")
    if store.add(f"claims {here.rank}", 1) > 1:
        host, pid = json.loads(store.get(f"rank {here.rank}"))
        _refuse(store, here, f"RANK={here.rank} is there twice, as pid {os.getpid()} and as pid {pid} on {host}")
    store.set(f"rank {here.rank}", me)
    store.add("there", 1)
    while True:
        if store.check(["refused"]):
            message = store.get("refused").decode()
            _linger(here)
            raise UserError(message)
        if store.add("there", 0) >= here.world_size:
            return
        if time.monotonic() > until:
            away = [rank for rank in range(here.world_size) if not store.check([f"rank {rank}"])]
            if away:
                _refuse(
                    store,
                    here,
                    f"{_ranks(away)} of {here.world_size} did not come to {here} within {patience:g} s",
                    f"see why there, start it, or {_LONGER}",
                )
        time.sleep(_POLL)


def _refuse(
    store: dist.Store, here: Place, what: str, remedy: str = "start every rank once, with the same WORLD_SIZE"
) -> None:
    message = f"{what}; {remedy}"
    store.set("refused", message)
    _linger(here)
    raise UserError(message)


def _linger(here: Place) -> None:
    """Let others read why from the store, which ends with this process."""
    if here.rank == 0:
        time.sleep(1.0)


def _ranks(numbers: list[int]) -> str:
    said = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"{'rank' if len(numbers) == 1 else 'ranks'} {said}"

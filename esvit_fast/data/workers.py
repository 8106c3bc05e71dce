"""Processes that read images: the death of one ends the work in a line, and none is left or waited for."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, get_worker_info

SHARED = Path("/dev/shm")
"""Where Linux keeps memory that processes share."""

_REMEDY = "pass --data.workers 0, or give it more (docker run --shm-size 8g)"
_LESS = "free memory or pass fewer --data.workers, and start again: a run resumes from its last checkpoint"
_CALLBACKS = ("weakref.py", "weakrefset.py")
_END = object()
_watched: set[BaseProcess] = set()
_at_once = False


class WorkerDied(RuntimeError):
    """A process that reads images has ended before its work; started again, a run goes on from its checkpoint."""


class SharedMemoryFull(ValueError):
    """Batches do not fit into the memory that processes share."""


class Full(NamedTuple):
    """What a worker sends instead of a batch for which there is no shared memory."""

    reason: str


def start_worker(_: int) -> None:
    """Set up a process that reads images: one thread, and no part in signals to the group."""
    torch.set_num_threads(1)
    # who stops a group of processes means the training process, which ends its workers when it has saved
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGBUS, signal.SIGSEGV, signal.SIGFPE):  # the training process says it
        signal.signal(number, signal.SIG_DFL)
    sys.excepthook = _told_elsewhere
    # one that outlived a killed training process would hold its connections to other ranks, which would wait for it
    torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)
    if multiprocessing.get_start_method() == "fork" and os.getppid() != multiprocessing.parent_process().pid:
        os._exit(1)  # it was killed before that


def _told_elsewhere(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Of threads that hand batches on: that a connection broke is the end of the process on its other side."""
    if not isinstance(error, OSError | EOFError):
        sys.__excepthook__(kind, error, trace)


def share(value: Any) -> Any:
    """Move the tensors of a worker's answer into shared memory, or answer `Full`; in other processes nothing is done.

    Left to the queue, one that does not fit would be lost there, and waited for.
    """
    if get_worker_info() is None:
        return value
    try:
        for tensor in _tensors(value):
            tensor.share_memory_()
    except (RuntimeError, OSError) as error:
        return Full(str(error).splitlines()[0])
    return value


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def check_shared_memory(workers: int, batch_bytes: int, held: int) -> None:
    """Refuse to begin where the batches that are on their way at a time cannot fit.

    Args:
        workers: processes of a rank, each of which prepares two batches.
        batch_bytes: of one batch.
        held: batches that the training process works on.

    Raises:
        SharedMemoryFull: with what is needed and what is there.
    """
    if not workers or not SHARED.is_dir():
        return
    disk = os.statvfs(SHARED)
    free = disk.f_bavail * disk.f_frsize
    count = (2 * workers + held) * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if disk.f_blocks and free < count * batch_bytes:  # no blocks: no limit
        raise SharedMemoryFull(
            f"data.workers={workers} needs {_mib(count * batch_bytes)} of shared memory for {count} batches, but "
            f"{SHARED} has {_mib(free)} free; {_REMEDY}"
        )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count >= 10 * 2**20 else f"{count / 2**10:,.0f} KiB"


def answers(loader: DataLoader) -> Iterator[Any]:
    """What a loader's workers answer, in order; they end with the iterator.

    Raises:
        WorkerDied: one has ended before; the others are killed.
        SharedMemoryFull: there is no room for what they answer.
    """
    if not loader.num_workers:
        yield from loader
        return
    with _Crew(loader) as crew:
        while (answer := crew.next()) is not _END:
            yield answer


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the death of a worker end at once what runs here, which must write nothing; elsewhere it waits for this.

    Raises:
        WorkerDied: also of one that has died before.
    """
    global _at_once
    _check(_watched)
    _at_once = threading.current_thread() is threading.main_thread()
    try:
        yield
    finally:
        _at_once = False


class _Crew:
    """The processes of a loader."""

    def __init__(self, loader: DataLoader):
        self.count, before = loader.num_workers, set(multiprocessing.active_children())
        handler = signal.getsignal(signal.SIGCHLD)
        try:
            self.answers = iter(loader)
        except BaseException as error:
            _end(set(multiprocessing.active_children()) - before)
            if not isinstance(error, OSError):
                raise
            raise ValueError(
                f"data.workers={self.count} processes cannot be started: {error.strerror}; {_REMEDY}"
            ) from None
        self.processes = set(multiprocessing.active_children()) - before
        _watch(handler)

    def __enter__(self) -> _Crew:
        _watched.update(self.processes)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _watched.difference_update(self.processes)
        if kind in (None, GeneratorExit):
            self.answers = None  # they end by themselves, but for one that is stuck
        _end(self.processes)

    def next(self) -> Any:
        """The next answer, or `_END`."""
        try:
            with interruptible():
                answer = next(self.answers, _END)
        except WorkerDied:
            raise
        except MemoryError:
            raise WorkerDied(f"a worker process, one of {self.count}, found no memory; {_LESS}") from None
        except (RuntimeError, OSError, EOFError):
            for _ in range(20):  # what it was sending breaks off before the system tells of its end
                _check(self.processes, ended=True)
                time.sleep(0.05)
            raise
        if isinstance(answer, Full):
            raise SharedMemoryFull(f"data.workers={self.count}: shared memory is full ({answer.reason}); {_REMEDY}")
        return answer


def _end(processes: set[BaseProcess]) -> None:
    for process in processes:
        process.kill()  # it ignores what it is asked
    for process in processes:
        process.join()


@atexit.register
def _end_all() -> None:
    """Those of an iterator that an error has kept: what ends at exit by itself would wait for them."""
    _end(_watched)


def _watch(before: Any) -> None:
    """Be told when a process ends, instead of torch, which raises wherever the training process happens to be.

    Args:
        before: what was told until now.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return  # then the loader itself looks every five seconds
    if getattr(before, "__module__", None) == __name__:
        return
    if getattr(before, "__module__", None) == "torch.utils.data._utils.signal_handling":
        before = None

    def told(number: int, frame: FrameType | None) -> None:
        if _at_once and not _is_swallowed(frame):
            _check(_watched)
        elif _at_once:
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        if callable(before) and not any(process.exitcode for process in _watched):
            before(number, frame)

    signal.signal(signal.SIGCHLD, told)


def _is_swallowed(frame: FrameType | None) -> bool:
    """Whether an error that is raised here would only be printed: in what Python calls as an object goes."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" or os.path.basename(frame.f_code.co_filename).lstrip("_") in _CALLBACKS:
            return True
        frame = frame.f_back
    return False


def _check(processes: set[BaseProcess], *, ended: bool = False) -> None:
    """Raise WorkerDied for one that was killed or failed, or, with `ended`, has ended at all."""
    for process in list(processes):
        if process.exitcode or (ended and process.exitcode is not None):
            raise WorkerDied(_why(process, len(processes)))


def _why(process: BaseProcess, count: int) -> str:
    code, who = process.exitcode, f"a worker process (pid {process.pid}, one of {count})"
    if code == -signal.SIGKILL:
        return f"{who} was killed, as the system does when memory runs out; {_LESS}"
    if code < 0:
        name = signal.Signals(-code).name
        memory = f"shared memory may be full: {_REMEDY}" if name == "SIGBUS" else "pass --data.workers 0 to see where"
        return f"{who} was ended by {name}; {memory}; a run resumes from its last checkpoint"
    return f"{who} ended with exit code {code}; start again, a run resumes from its last checkpoint"

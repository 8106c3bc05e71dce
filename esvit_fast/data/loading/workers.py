"""Processes that read images: the death of one ends the work in a line, and none is left or waited for."""

from __future__ import annotations

import atexit
import math
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
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Answers

from ...errors import UserError
from ...text import in_bytes

SHARED = Path("/dev/shm")
"""Where Linux keeps memory that processes share."""

_REMEDY = "pass --data.workers 0, or give it more (docker run --shm-size 8g)"
_LESS = "free memory or pass fewer --data.workers, and start again: a run resumes from its last checkpoint"
_CALLBACKS = ("weakref.py", "weakrefset.py")
_END = object()
_watched: set[BaseProcess] = set()
_at_once = False
_before: Any = None
"""Who was told of the end of processes before this module is."""


class WorkerDied(UserError, RuntimeError):
    """A process that reads images has ended before its work; started again, a run goes on from its checkpoint."""


class SharedMemoryFull(UserError):
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


def fitting_workers(workers: int, batch_bytes: int, held: int) -> int:
    """The most workers, up to a number, for whose batches there is shared memory; 0 need none.

    Args:
        workers: processes of a rank, each of which prepares two batches.
        batch_bytes: of one batch.
        held: batches that the training process works on.
    """
    free = _free_shared_memory()
    return next((n for n in range(workers, 0, -1) if _batches(n, held) * batch_bytes <= free), 0)


def check_shared_memory(workers: int, batch_bytes: int, held: int) -> None:
    """Refuse to begin where the batches that are on their way at a time cannot fit.

    Args:
        workers: as in `fitting_workers`, and so are the others.

    Raises:
        SharedMemoryFull: with what is needed and what is there.
    """
    if workers and fitting_workers(workers, batch_bytes, held) < workers:
        count = _batches(workers, held)
        raise SharedMemoryFull(
            f"data.workers={workers} needs {in_bytes(count * batch_bytes)} of shared memory for {count} batches, but "
            f"{SHARED} has {in_bytes(_free_shared_memory())} free; {_REMEDY}"
        )


def _batches(workers: int, held: int) -> int:
    """Of all ranks of this machine that are on their way at a time."""
    return (2 * workers + held) * local_ranks()


def _free_shared_memory() -> float:
    """In bytes; infinite where there is no limit."""
    if not SHARED.is_dir():
        return math.inf
    disk = os.statvfs(SHARED)
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else math.inf


def local_ranks() -> int:
    """Processes of a run on this machine, as a launcher says.

    Raises:
        UserError: LOCAL_WORLD_SIZE is no such number.
    """
    value = os.environ.get("LOCAL_WORLD_SIZE", "1")
    if not (value.strip().isdecimal() and int(value)):
        raise UserError(
            f"LOCAL_WORLD_SIZE={value!r} must be a whole number, at least 1; start with torchrun, or correct it"
        )
    return int(value)


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
        self.count = loader.num_workers
        # as iter(loader), which does not tell what it had started when it failed
        self.answers = Answers.__new__(Answers)
        try:
            self.answers.__init__(loader)
        except BaseException as error:
            self._hide_from_torch()
            _end(set(vars(self.answers).get("_workers", ())))
            self.answers._shutdown = True  # which would fail on half of an iterator
            if not isinstance(error, OSError):
                raise
            raise UserError(
                f"data.workers={self.count} processes cannot be started: {error.strerror}; {_REMEDY}"
            ) from None
        self.processes = set(self.answers._workers)
        self._hide_from_torch()

    def _hide_from_torch(self) -> None:
        """Else it would raise its own error when one dies, wherever the training process happens to be."""
        if vars(self.answers).get("_worker_pids_set"):
            signal_handling._remove_worker_pids(id(self.answers))
            self.answers._worker_pids_set = False

    def __enter__(self) -> _Crew:
        _watched.update(self.processes)
        _watch()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        _watched.difference_update(self.processes)
        if kind in (None, GeneratorExit):
            self.answers = None  # they end by themselves, but for one that is stuck
        _end(self.processes)
        if not _watched:
            _unwatch()

    def next(self) -> Any:
        """The next answer, or `_END`."""
        try:
            with interruptible():
                answer = next(self.answers, _END)
        except WorkerDied:
            raise
        except MemoryError:
            raise WorkerDied(f"a worker process, one of {self.count}, found no memory; {_LESS}") from None
        except UserError as error:  # torch puts the worker's traceback before its message
            raise UserError(str(error).rstrip().rpartition("\n")[2].partition(": ")[2]) from None
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


def _watch() -> None:
    """Be told when a process ends; outside the main thread, the loader itself looks every five seconds."""
    global _before
    if _may_watch() and signal.getsignal(signal.SIGCHLD) is not _told:
        _before = signal.signal(signal.SIGCHLD, _told)


def _unwatch() -> None:
    """Give back who was told before."""
    if _may_watch() and signal.getsignal(signal.SIGCHLD) is _told and _before is not None:
        signal.signal(signal.SIGCHLD, _before)


def _may_watch() -> bool:
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")


def _told(number: int, frame: FrameType | None) -> None:
    if not any(process.exitcode for process in list(_watched)):
        if callable(_before):
            _before(number, frame)
    elif _at_once and _is_swallowed(frame):
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
    elif _at_once:
        _check(_watched)


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
        return f"{who} was killed (by hand, or by the system when memory ran out); {_LESS}"
    if code < 0:
        name = signal.Signals(-code).name
        memory = f"shared memory may be full: {_REMEDY}" if name == "SIGBUS" else "pass --data.workers 0 to see where"
        return f"{who} was ended by {name}; {memory}; a run resumes from its last checkpoint"
    return f"{who} ended with exit code {code}; start again, a run resumes from its last checkpoint"

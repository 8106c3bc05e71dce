"""Stopping between two steps when the system or the user asks for it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import torch
import torch.distributed as dist

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE = 3.0
"""Seconds in which a process that is told for the second time may end by itself; one that waits for another cannot."""


class StopRequest:
    """While entered, SIGTERM and Ctrl-C are noted instead of ending the process; a second one ends it at once.

    Both are answered at once, and the second ends it also while it is in the midst of a long operation, or waits for
    another rank.

    Args:
        losing: the steps that ending at once would lose, for the answer; None: nothing is said.

    Attributes:
        signal: the signal's number, or None.
    """

    def __init__(self, losing: Callable[[], int] | None = None) -> None:
        self.signal: int | None = None
        self._losing = losing
        self._previous: dict[int, object] = {}
        self._left = threading.Event()

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            ears, mouth = socket.socketpair()
            mouth.setblocking(False)
            self._mouth, self._before = mouth, signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
            _open.add(mouth)
            threading.Thread(target=self._listen, args=(ears,), name="signals", daemon=True).start()
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            signal.set_wakeup_fd(self._before)
            _open.discard(self._mouth)
            self._mouth.close()  # which ends the thread

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

    def _listen(self, ears: socket.socket) -> None:
        """Hear of signals when they come, while the main thread hears of them when it comes back from an operation."""
        told = 0
        with ears:
            while heard := ears.recv(64):
                for number in heard:
                    if number not in _SIGNALS:
                        continue
                    told += 1
                    if told == 1:
                        self._say()
                    elif not self._left.wait(_GRACE):
                        os._exit(128 + number)

    def _say(self) -> None:
        if self._losing is not None:
            steps = self._losing()
            lost = f"{steps:,} step{'s' * (steps > 1)}" if steps else "nothing but this step"
            with suppress(OSError):  # the terminal may be what has gone
                print(f"stopping after this step; again to stop now, losing {lost}", file=sys.stderr, flush=True)

    def ask(self) -> None:
        """Ask for what SIGTERM asks for."""
        self.signal = signal.SIGTERM

    def agreed(self) -> bool:
        """Whether any rank has been asked to stop; all ranks call this together."""
        if not dist.is_initialized():
            return self.signal is not None
        asked = torch.tensor(self.signal or 0)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        self.signal = int(asked) or None
        return self.signal is not None


_open: set[socket.socket] = set()


def _go_deaf() -> None:
    """A child's signals are not those of this process."""
    if _open and threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_go_deaf)

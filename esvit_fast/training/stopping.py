"""Stopping between two steps when the system or the user asks for it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import torch
import torch.distributed as dist

from ..text import counted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_GRACE = 3.0
"""Seconds in which a process that is told for the second time may end by itself; one that waits for another cannot."""
_ONCE = 1.0
"""Seconds in which the same signal is the same request: a supervisor tells the process, and its group as well."""


class StopRequest:
    """While entered, SIGTERM and Ctrl-C are noted instead of ending the process; a second one ends it at once.

    The same one again within a second is no second one. Both are answered at once, and the second ends it also while it
    is in the midst of a long operation, or waits for another rank.

    Args:
        losing: the steps that ending at once would lose, for the answer; None: nothing is said.

    Attributes:
        signal: the signal's number, or None.
    """

    def __init__(self, losing: Callable[[], int] | None = None) -> None:
        self.signal: int | None = None
        self._losing = losing
        self._previous: dict[int, object] = {}
        self._left, self._again = threading.Event(), False

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
        if self._again:
            raise KeyboardInterrupt
        self.signal = number

    def _listen(self, ears: socket.socket) -> None:
        """Hear of signals when they come, while the main thread hears of them when it comes back from an operation."""
        first, first_at = None, 0.0
        with ears:
            while heard := ears.recv(64):
                for number in heard:
                    if number not in _SIGNALS:
                        continue
                    if first is None:
                        first, first_at = number, time.monotonic()
                        self._say()
                    elif number != first or time.monotonic() - first_at >= _ONCE:
                        self._end(number)

    def _end(self, number: int) -> None:
        """End the process by a second signal; Ctrl-C lets it leave the terminal and its folder in order first."""
        if self._left.is_set():
            return
        if number == signal.SIGINT:
            self._again = True
            interrupt_main(number)
            if self._left.wait(_GRACE):
                return
        os._exit(128 + number)

    def _say(self) -> None:
        if self._losing is not None:
            steps = self._losing()
            lost = counted(steps, "step") if steps else "nothing but this step"
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

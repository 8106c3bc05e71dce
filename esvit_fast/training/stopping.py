"""Stopping between two steps when the system or the user asks for it."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import torch
import torch.distributed as dist


class StopRequest:
    """While entered, SIGTERM and Ctrl-C are noted instead of ending the process; a second one ends it at once.

    Attributes:
        signal: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)

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

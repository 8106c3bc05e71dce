"""Progress of a task of several parts: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Told = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@contextmanager
def task_progress(console: Console, seconds: float = 10.0) -> Iterator[Told]:
    """A function to tell of progress: in a log it writes a line when a part begins or ends, and every `seconds`."""
    if not console.is_terminal:
        yield _Lines(console, seconds)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True) as progress:
        task, current = progress.add_task(""), ""

        def tell(what: str, done: int, of: int) -> None:
            nonlocal current
            if what != current:  # a part's speed says nothing of the next one's
                progress.reset(task, description=what, total=of)
                current = what
            progress.update(task, completed=done)

        yield tell


class _Lines:
    def __init__(self, console: Console, seconds: float):
        self.console, self.seconds = console, seconds
        self.what, self.done, self.last = "", 0, 0.0

    def __call__(self, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        ends = done == of and done != self.done
        if what == self.what and not ends and now - self.last < self.seconds:
            return
        self.what, self.done, self.last = what, done, now
        self.console.print(f"{what}: {done:,} of {of:,}", markup=False, highlight=False, soft_wrap=True)

"""Which command is called, and how it ends: errors of the user are one line and exit code 2, all others 1."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from ..errors import UserError
from ..parallel.launcher import end_with_launcher
from . import bugs
from .streams import write_anything
from .warned import show_own_warnings_in_a_line

COMMANDS = {
    "demo": ("demo", "train a small network on drawn images and show what it learned, in minutes"),
    "doctor": ("doctor", "what this machine has, and which backend runs each operator"),
    "models": ("listing", "backbones and their sizes"),
    "recipes": ("listing", "settings that come with the package"),
    "data": ("data", "check a set of images, pack it into shards, or see its crops"),
    "plan": ("plan", "what a run will take: memory, images/s, time, disk; no training"),
    "pretrain": ("pretrain", "pretrain a backbone on a folder of images"),
    "resume": ("pretrain", "go on with a run from its last checkpoint"),
    "eval": ("evaluate", "k-NN or linear accuracy of frozen features"),
    "report": ("report", "write report.html of a run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for what the user can mend, 128 + signal when stopped.

    It is 1 when a process of the run has died: the same command with `--resume`, or `resume`, goes on. The program,
    which gives no `argv`, ends at once then, as it does where it is one of several ranks. It is 1, too, for a bug, of
    which the run's folder keeps the traceback.
    """
    write_anything()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what goes wrong is said in a line of our own
    show_own_warnings_in_a_line()
    try:
        code, farewell = _run(list(sys.argv[1:] if argv is None else argv)), True
    except _Died as error:
        _fail(error.message, after_all=error.is_other)
        code, farewell = 1, False
    if argv is None and (not farewell or "WORLD_SIZE" in os.environ):
        _leave(code, farewell)
    return code


class _Died(Exception):
    """A process of the run has died: a worker, or another rank."""

    def __init__(self, message: str, is_other: bool):
        self.message, self.is_other = message, is_other


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        from .. import __version__

        print(__version__)
        return 0
    bugs.belongs_to(None)
    command, *rest = argv
    if command not in COMMANDS:
        from ..text import suggest

        return _fail(f"command={command!r} is not known{suggest(command, COMMANDS)}")
    try:
        if command in ("pretrain", "resume"):
            end_with_launcher()
        module = import_module(f".{COMMANDS[command][0]}", __package__)
        return getattr(module, command)(rest)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 (of a bug, the traceback is kept)
        lost = _loss_of_a_rank(error)
        if lost or _is_loss_of_a_worker(error):
            raise _Died(lost or str(error), lost is not None) from None
        if message := _message_for_user(error):
            return _fail(message)
        told, where = bugs.about(error), bugs.keep(error, argv)
        _fail(f"{told}; this is a bug in esvit_fast or in what it uses, its traceback is {where}", same_as=told)
        return 1


def _leave(code: int, farewell: bool) -> NoReturn:
    """End without taking the interpreter apart; with a farewell if nobody is gone who would be waited for.

    Else a thread of gloo that has not yet let go of a tensor of the last sum would abort the process (torch 2.11), and
    torchrun would call a run that is done a failure.
    """
    if farewell:
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # who read it has gone
            stream.flush()
    os._exit(code)


def _message_for_user(error: Exception) -> str | None:
    """What is wrong and how to mend it; None of a bug."""
    if isinstance(error, UserError):
        from .options import in_flags

        return in_flags(str(error))
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename!r}: {error.strerror}; check that it is there and may be read or written"
    if _is_out_of_memory(error):
        return (
            f"memory is full ({bugs.about(error)}); smaller micro-batches, crops and models take less, "
            "`esvit-fast plan` says how much"
        )
    return None


_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", '"aten::new_empty"')
"""Of errors of torch without a class of their own; the second is of compiled operators, whose interface loses why."""


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    kinds = MemoryError if torch is None else (MemoryError, torch.OutOfMemoryError)
    said = str(error) if isinstance(error, RuntimeError) else ""
    return isinstance(error, kinds) or any(text in said for text in _NO_MEMORY)


def _loss_of_a_rank(error: Exception) -> str | None:
    if "WORLD_SIZE" not in os.environ:
        return None
    from ..parallel.ranks import is_loss_of_a_rank, loss_of_a_rank

    return loss_of_a_rank(error) if is_loss_of_a_rank(error) else None


def _is_loss_of_a_worker(error: Exception) -> bool:
    workers = sys.modules.get("esvit_fast.data.loading.workers")
    return workers is not None and isinstance(error, workers.WorkerDied)


def _fail(message: str, after_all: bool = False, same_as: str | None = None) -> int:
    """Say what is wrong, once for all ranks that find the same; or `after_all`, only if none has said anything.

    Args:
        same_as: what is the same on all ranks that find it, where the message is not.
    """
    if "WORLD_SIZE" in os.environ:
        from ..parallel.ranks import is_first_to_say

        if not is_first_to_say(same_as or message, after_all):
            return 2
    print(f"esvit-fast: error: {message}", file=sys.stderr, flush=True)
    return 2


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: esvit-fast COMMAND …", "", *lines, "", "esvit-fast COMMAND --help tells more."])

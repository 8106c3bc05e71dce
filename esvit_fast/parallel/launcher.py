"""The torchrun that started this process, if one did; light, so that it is watched before anything else is loaded."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

_watched = False
_MODULES = ("torch.distributed.run", "torch.distributed.launch")


def end_with_launcher() -> None:
    """Let this process end when the torchrun that started it does, beside whose successor it would go on; once."""
    global _watched
    launcher = os.getppid()
    if _watched or "TORCHELASTIC_RUN_ID" not in os.environ or not _is_torchrun(launcher):
        return
    _watched = True

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        try:
            if os.environ.get("LOCAL_RANK", "0") == "0":
                print(
                    f"esvit-fast: error: torchrun (pid {launcher}) has ended, and so its ranks do; start it again, "
                    "with --resume",
                    file=sys.stderr,
                    flush=True,
                )
        finally:
            os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def _is_torchrun(pid: int) -> bool:
    """Whether a process is a launcher: others only hand on what one has put into their environment."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        files = [f"{module.replace('.', '/')}.py" for module in _MODULES]
        return any(word in _MODULES or Path(word).name == "torchrun" or word.endswith(tuple(files)) for word in words)
    return False

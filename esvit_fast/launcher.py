"""The torchrun that started this process, if one did; light, so that it is watched before anything else is loaded."""

from __future__ import annotations

import os
import sys
import threading
import time

_watched = False


def end_with_launcher() -> None:
    """Let this process end when the torchrun that started it does, beside whose successor it would go on; once."""
    global _watched
    if _watched or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    _watched, launcher = True, os.getppid()

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

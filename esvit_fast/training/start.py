"""Whether a run begins or goes on, and what is looked at before anything is loaded."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from ..config import Config, ConfigError, load_config, settings
from .distributed import gather

_FREE = re.compile(
    r"eval\..*|data\.(source|workers|decode|max_corrupt_share)|model\.checkpoint_stages|"
    r"train\.(device|accumulation_steps|micro_batch_size|shard|compile|cuda_graph)|"
    r"train\.(checkpoint_every_steps|keep_checkpoints|log_every_steps|loggers|stop_on_collapse)"
)
"""Settings that may change when a run goes on: they say where and how the same is computed, and what is written."""


def check_folder(out: Path) -> None:
    """Refuse a folder that cannot be created or written to.

    Raises:
        ValueError: what is in the way.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ValueError(f"out={str(out)!r} cannot be a folder: {str(there)!r} is a file; choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"out={str(out)!r} cannot be written: no permission in {str(there)!r}; choose another folder")


def holds_run(out: Path) -> bool:
    """Whether a run has begun in a folder, on which all ranks must agree.

    Raises:
        ValueError: some ranks see it and others do not.
    """
    seen = gather([(out / "config.yaml").is_file()])
    if len(set(seen)) > 1:
        raise ValueError(
            f"out={str(out)!r} holds a run on {sum(seen)} of {len(seen)} ranks; it must be a folder that all share"
        )
    return seen[0]


def launch() -> str | None:
    """The name that torchrun gave to all starts of its processes, unless it is the default of all launches."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if name == "none" else name


def launched_by(out: Path) -> str | None:
    """The launch of torchrun that began a run."""
    try:
        return json.loads((out / "environment.json").read_bytes()).get("launch")
    except (OSError, ValueError):
        return None


def restarted() -> bool:
    """Whether torchrun starts processes again, after one of them failed; those of a new node may be there at first."""
    return any(gather([int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0]))


def settings_of_run(out: Path, config: Config | None) -> Config:
    """The configuration with which a run goes on: its own, or a given one that makes no other run of it.

    Raises:
        ConfigError: with every setting that differs and must not.
    """
    own = load_config(out / "config.yaml")
    if config is None:
        return own
    asked = dict(settings(config))
    differ = [
        f"{name}={value} would become {asked[name]}"
        for name, value in settings(own)
        if value != asked[name] and not _FREE.fullmatch(name)
    ]
    if differ:
        raise ConfigError(
            f"run={str(out)!r} began with other settings: {', '.join(differ)}; keep its own, or choose another folder"
        )
    return config

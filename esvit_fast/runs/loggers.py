"""Where records go besides ``metrics.jsonl``: TensorBoard, Weights & Biases, trackio; each an optional package."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from ..config import Config, to_tree
from ..errors import UserError

PROJECT = "esvit-fast"

Record = Mapping[str, Any]


class Logger(Protocol):
    """Takes the records of a run as they are made, on the main rank."""

    def write(self, record: Record) -> None:
        """A record as in ``metrics.jsonl``: kind, step, and numbers by name; a warning has text."""

    def close(self) -> None:
        """Nothing follows."""


def check_loggers(names: Sequence[str]) -> None:
    """Raise UserError unless the packages of all loggers are installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(
                f"train.loggers={name} needs the package {name}, which is not installed; "
                f"`pip install {name}` or `pip install 'esvit-fast[log]'`"
            )


def open_loggers(config: Config, out: Path, step: int) -> list[Logger]:
    """Loggers of a run in folder `out` that begins, or goes on, after `step`.

    TensorBoard's files lie in ``out/tensorboard``, and what a crashed run wrote beyond `step` is hidden. W&B and
    trackio go on with the run whose id lies in ``out/run_id``; of a repeated step W&B keeps what it was told first.

    Raises:
        UserError: a package is missing, or a service refuses the run, such as W&B without a key.
    """
    check_loggers(config.train.loggers)
    return [
        TensorBoard(out / "tensorboard", step) if name == "tensorboard" else Tracker(name, config, out)
        for name in config.train.loggers
    ]


def scalars(record: Record) -> dict[str, float]:
    """The finite numbers of a record as ``kind/name``, without its position."""
    return {
        f"{record['kind']}/{name}": value
        for name, value in record.items()
        if name not in ("step", "samples") and isinstance(value, int | float) and math.isfinite(value)
    }


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, record: Record) -> None:
        """As `Logger`."""
        if record["kind"] == "warning":
            self._writer.add_text("warning", _text(record), record["step"])
            return
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """As `Logger`."""
        self._writer.close()


class Tracker:
    """A run of W&B or of trackio, which is made after it; where it goes and what it asks for is theirs to say."""

    def __init__(self, name: str, config: Config, out: Path):
        module = import_module(name)
        identity = _run_id(out)
        settings = {"project": PROJECT, "config": to_tree(config), "resume": "allow"}
        if name == "wandb":
            settings |= {"id": identity, "name": out.resolve().name, "dir": str(out)}
        else:
            settings |= {"name": f"{out.resolve().name}-{identity}"}
        try:
            self._run = module.init(**settings)
        except getattr(module, "Error", ValueError) as error:
            first = str(error).splitlines()[0]
            remedy = "run `wandb login`, set WANDB_MODE=offline" if name == "wandb" else "mend that"
            raise UserError(f"train.loggers={name} cannot begin: {first}; {remedy}, or leave it out") from error

    def write(self, record: Record) -> None:
        """As `Logger`."""
        if record["kind"] == "warning":
            self._run.alert(title=record["finding"], text=_text(record))
        else:
            self._run.log(scalars(record), step=record["step"])

    def close(self) -> None:
        """As `Logger`."""
        self._run.finish()


def _run_id(out: Path) -> str:
    """What the services know a run by, kept in its folder."""
    path = out / "run_id"
    if not path.is_file():
        path.write_text(secrets.token_hex(4) + "\n")
    return path.read_text().strip()


def _text(record: Record) -> str:
    return f"{record['finding']}: {record['evidence']}; {record['remedy']}"

"""Whether a run begins or goes on, and what is looked at before anything is loaded."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

from ..config import Config, ConfigError, leaves, load_config, settings
from ..data import Source, SourceError, absolute, open_source
from ..errors import UserError
from ..parallel.precision import settled
from ..parallel.ranks import Ranks, gather
from .step.trainer import Trainer


def check_folder(out: Path) -> None:
    """Refuse a folder that cannot be created or written to.

    Raises:
        UserError: what is in the way.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"out={str(out)!r} cannot be a folder: {str(there)!r} is a file; choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"out={str(out)!r} cannot be written: no permission in {str(there)!r}; choose another folder")


def holds_run(out: Path) -> bool:
    """Whether a run has begun in a folder, on which all ranks must agree.

    Raises:
        UserError: some ranks see it and others do not.
    """
    seen = gather([(out / "config.yaml").is_file()])
    if len(set(seen)) > 1:
        raise UserError(
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


def source_of_run(config: Config) -> Source:
    """The images with which a run goes on.

    Raises:
        SourceError: as `open_source`; a path that is not absolute was written from another folder, by hand or by
            version 0.1.
    """
    spec = config.data.source
    try:
        return open_source(spec, "train", config.data.max_megapixels)
    except SourceError as error:
        if absolute(spec) == spec:
            raise
        raise SourceError(
            f"{error}; this path is relative to the folder in which the run began: resume there, or pass --data.source"
        ) from None


def check_epochs(trainer: Trainer) -> None:
    """Refuse fewer epochs than a run has done.

    Raises:
        ConfigError: with both.
    """
    if trainer.step > trainer.total_steps:
        epochs, done = trainer.config.train.epochs, trainer.samples / trainer.epoch_samples
        raise ConfigError(
            f"train.epochs={epochs:g} is {trainer.total_steps:,} steps, but the run has done {trainer.step:,} "
            f"({done:.4g} epochs); pass --train.epochs {math.ceil(done * 100) / 100:g} or more"
        )


def settings_of_run(
    out: Path, config: Config | None, ranks: Ranks, on_purpose: bool
) -> tuple[Config, dict[str, list[str]]]:
    """The configuration with which a run goes on, its own or a given one, and what that cures: names of settings to
    their values before and from now on.

    Args:
        on_purpose: the run may become another one. Otherwise `train.precision: auto` is what it became as it began.

    Raises:
        ConfigError: with every setting that differs and must not.
    """
    own = load_config(out / "config.yaml")
    if config is not None and config.train.precision == "auto" and not on_purpose:
        config = replace(config, train=replace(config.train, precision=own.train.precision))
    config = settled(config or own, ranks)
    asked = dict(settings(config))
    changed = [old for old in leaves(own) if old.value != asked[old.name] and not old.is_free()]
    differ = {old.name: [str(old.value), str(asked[old.name])] for old in changed}
    curable = all(old.is_cured_by(asked[old.name]) for old in changed)
    if differ and not (on_purpose and curable):
        told = ", ".join(f"{name}={old} would become {new}" for name, (old, new) in differ.items())
        way = f"pass them to `esvit-fast resume {out}`" if curable else "keep its own"
        raise ConfigError(f"run={str(out)!r} began with other settings: {told}; {way}, or choose another folder")
    return config, differ

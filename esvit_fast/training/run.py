"""A run from start to end: files, the loop over batches, checkpoints, measurements, and stopping."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import record_function

from ..config import Config
from ..data import (
    Batch,
    CorruptionLog,
    Loader,
    Source,
    TooManyCorrupt,
    check_device_decode,
    fingerprint,
    interruptible,
    make_loader,
    open_source,
    prefetch,
    steps_per_epoch,
    warning_of,
)
from ..errors import UserError
from ..parallel.ranks import Ranks, accumulation_steps, barrier, gather, micro_batch
from ..runs.atomic import remove_unfinished, write_atomic
from ..runs.checkpoint import clean, load_latest
from ..runs.environment import environment
from ..runs.lock import check_no_writer, only_writer
from ..runs.loggers import check_loggers
from ..runs.metrics import MetricsLog, truncate_after
from ..text import counted
from .agreement import agree_on_checkpoint, agree_on_images, agree_on_settings
from .files import Reporter, RunFiles, keep_weights, write_config
from .monitoring.diagnostics import Collapsed
from .monitoring.online_knn import OnlineKnn
from .monitoring.profiling import DATA, StepProfiler
from .monitoring.records import Clock, Record, position
from .start import check_epochs, check_folder, holds_run, launch, launched_by, restarted, settings_of_run, source_of_run
from .step.trainer import NotFinite, Trainer
from .stopping import StopRequest

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """How a run ended: at which step, of how many, stopped by which signal (None: it is complete), after how long."""

    step: int
    total_steps: int
    signal: int | None
    seconds: float
    begun: int = 0
    """The step from which it went on."""


def pretrain(
    config: Config, out: Path, ranks: Ranks, reporter: Reporter, profile: int = 0, *, or_resume: bool = False
) -> Outcome:
    """Start a run in an empty or new folder, or go on with one that this launch of torchrun began there.

    Args:
        profile: steps of which it says where their time goes.
        or_resume: go on with a run that the folder holds, whoever began it.

    Raises:
        UserError: the folder already holds a run, or one with other settings, or cannot be written; or the
            configuration or its data cannot work.
        Busy: a run is going on in the folder.
        NotFinite: three steps in a row were not finite; the last checkpoint is from before them.
        Collapsed: something is wrong with the run, and `train.stop_on_collapse` asks to stop then.
    """
    out = Path(out)
    agree_on_settings("pretrain --resume" if or_resume else "pretrain", out, config)
    micro_batch(config, ranks.world_size)
    check_folder(out)
    taken = UserError(
        f"out={str(out)!r} already holds a run; continue it with `esvit-fast resume {out}`, pass --resume, or "
        "choose another"
    )
    check_no_writer(out, ranks)
    if holds_run(out):
        if or_resume or (restarted() and launch() and launched_by(out) == launch()):
            return resume(out, ranks, reporter, config, profile, unless_collapsed=True)
        raise taken
    source = open_source(config.data.source, "train", config.data.max_megapixels)
    _say_what_is_left_out(source, ranks)
    trainer = _trainer(config, source, ranks, profile)
    inputs = _inputs(trainer, source)
    if ranks.is_main:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"out={str(out)!r} cannot be created: {error.strerror}; choose another folder") from error
    with only_writer(out, ranks):
        if holds_run(out):  # somebody else's, begun meanwhile
            raise taken
        if ranks.is_main:
            remove_unfinished(out)
            facts = {**environment(ranks.device, ranks.world_size), "launch": launch()}
            write_atomic(out / "environment.json", _json(facts))
            write_config(out, trainer.config)
        barrier()
        return _run(trainer, inputs, out, reporter, profile)


def resume(
    out: Path,
    ranks: Ranks,
    reporter: Reporter,
    config: Config | None = None,
    profile: int = 0,
    *,
    unless_collapsed: bool = False,
) -> Outcome:
    """Go on with a run from its last whole checkpoint; without one, from the start. A complete run stays as it is.

    Args:
        config: instead of the run's own. It may change where and how the same is computed, and what cures a run:
            optimisation, precision, temperatures and terms of the loss; a record of kind "settings" tells what.
        profile: as in `pretrain`.
        unless_collapsed: leave a run as it is which `train.stop_on_collapse` has stopped, and cure none.

    Raises:
        UserError: the folder holds no run, or one with other settings, or one that has gone further than asked for,
            or its data have changed.
        Busy: a run is going on in the folder.
        CheckpointError: every checkpoint is damaged.
        NotFinite, Collapsed: as `pretrain`.
    """
    out = Path(out)
    agree_on_settings("resume", out, config)
    check_folder(out)
    if not holds_run(out):
        raise UserError(
            f"run={str(out)!r} holds no run (no config.yaml); pass the folder that `pretrain --out` was given"
        )
    with only_writer(out, ranks):
        config, cured = settings_of_run(out, config, ranks, on_purpose=not unless_collapsed)
        micro_batch(config, ranks.world_size)
        source = source_of_run(config)
        _say_what_is_left_out(source, ranks)
        trainer = _trainer(config, source, ranks, profile)
        corrupt = _load(trainer, out)
        inputs = _inputs(trainer, source, corrupt)
        if ranks.is_main:
            write_config(out, trainer.config)
            # without a checkpoint, what was measured before the first step is measured again
            truncate_after(out / "metrics.jsonl", trainer.step or -1)
            if cured:
                with MetricsLog(out / "metrics.jsonl") as log:
                    log.write({"kind": "settings", **position(trainer), "changed": cured})
        barrier()
        return _run(trainer, inputs, out, reporter, profile, unless_collapsed)


def _load(trainer: Trainer, out: Path) -> Sequence[int]:
    """Go on from the last checkpoint, if there is one; the images that were unreadable until then."""
    checkpoint = load_latest(out / "checkpoints")
    agree_on_checkpoint(checkpoint, out)
    if checkpoint is not None:
        trainer.load(checkpoint)
    check_epochs(trainer)
    if trainer.ranks.is_main:
        remove_unfinished(out)
        clean(out / "checkpoints", trainer.step, trainer.config.train.keep_checkpoints)
        if checkpoint is not None:
            keep_weights(out, trainer, checkpoint.tensors)
    return checkpoint.meta.get("corrupt", ()) if checkpoint else ()


def _say_what_is_left_out(source: Source, ranks: Ranks) -> None:
    if ranks.is_main and (line := warning_of(source)):
        logger.warning(line)


def _trainer(config: Config, source: Source, ranks: Ranks, profile: int) -> Trainer:
    train = config.train
    if profile and train.cuda_graph:
        raise UserError(
            f"profile={profile} tells the parts of a step apart, which a graph has not; pass --train.no-cuda-graph"
        )
    check_loggers(train.loggers)
    images = fingerprint(source)
    agree_on_images(source, images, ranks)
    epoch_samples = steps_per_epoch(len(source), train.batch_size) * train.batch_size
    return Trainer(config, epoch_samples, ranks, images)


class _Inputs(NamedTuple):
    loader: Loader
    corrupt: CorruptionLog
    accumulation_steps: int
    knn: OnlineKnn


def _inputs(trainer: Trainer, source: Source, corrupt: Sequence[int] = ()) -> _Inputs:
    """What a run reads from; all that can be wrong with it is found here, before anything is written."""
    train, ranks = trainer.config.train, trainer.ranks
    if trainer.config.data.decode == "gpu":
        check_device_decode(ranks.device)
    accumulated = accumulation_steps(train, ranks.world_size)
    loader = make_loader(
        source,
        trainer.config.data,
        batch_size=train.batch_size,
        seed=train.seed,
        start_samples=trainer.samples,
        total_samples=trainer.total_steps * train.batch_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        accumulation_steps=accumulated,
    )
    log = CorruptionLog(len(source), trainer.config.data.max_corrupt_share, warn=ranks.is_main)
    log.failed = {index: source.path(index) for index in corrupt}
    return _Inputs(loader, log, accumulated, OnlineKnn(trainer.config, source, ranks))


def _next(batches: Iterator[Batch], count: int, corrupt: CorruptionLog) -> list[Batch]:
    """The micro-batches of a step. Where one rank finds too many unreadable images, all raise TooManyCorrupt."""
    try:
        found = list(islice(batches, count))
        failed: list[Any] = [failure for batch in found for failure in batch.failures]
    except TooManyCorrupt as error:
        found, failed = [], [error]
    failed = gather(failed)
    for failure in failed:
        if isinstance(failure, TooManyCorrupt):
            raise failure
    corrupt.record(failed)
    return found


def _run(
    trainer: Trainer, inputs: _Inputs, out: Path, reporter: Reporter, profile: int, unless_collapsed: bool = False
) -> Outcome:
    train, ranks, knn = trainer.config.train, trainer.ranks, inputs.knn
    begin, clock = time.monotonic(), Clock(train.batch_size)
    profiler = StepProfiler(profile if ranks.is_main else 0, out, ranks.device, _title(trainer))
    batches = prefetch(inputs.loader, ranks.device, decode=inputs.loader.decode)
    files = RunFiles(out, trainer, reporter, unless_collapsed)
    with (
        StopRequest(files.losing if ranks.is_main else None) as stop,
        files,
        profiler,
        closing(batches),
    ):
        if ranks.is_main:
            reporter.start(trainer)
        if train.stop_on_collapse and files.found:
            stop.ask()
        if trainer.step == 0 and knn.available:
            files.knn(trainer, knn)
        first = trainer.step
        try:
            while trainer.step < trainer.total_steps and not stop.agreed():
                profiler.next()
                clock.wait()
                with record_function(DATA):
                    micro = _next(batches, inputs.accumulation_steps, inputs.corrupt)
                clock.work()
                before = trainer.epoch
                with interruptible():
                    result = trainer.train_step(micro)
                logged = trainer.step % train.log_every_steps == 0 or trainer.step in (1, trainer.total_steps)
                files.step(trainer, Record(trainer, result, clock, inputs.corrupt) if logged else None)
                if train.stop_on_collapse and files.found:
                    stop.ask()
                if knn.due(before, trainer.epoch):
                    files.knn(trainer, knn)
                    clock.restart()
                if trainer.step % train.checkpoint_every_steps == 0:
                    trainer.settle()
                    if not trainer.skipped_in_a_row:
                        files.checkpoint(trainer, inputs.corrupt)
            trainer.settle()
            files.write_records(trainer)
        except NotFinite as error:
            files.write_records(trainer)
            last = f"the checkpoint of step {files.saved} is the last good one"
            last = last if files.saved else "no checkpoint had been written"
            raise NotFinite(f"{error}; {last}") from None
        except TooManyCorrupt:
            if files.saved != trainer.step:
                files.checkpoint(trainer, inputs.corrupt)
            raise
        if files.saved != trainer.step:
            files.checkpoint(trainer, inputs.corrupt)
        if train.stop_on_collapse and trainer.step < trainer.total_steps and (found := gather(files.found)):
            raise Collapsed(f"stopped and saved at step {trainer.step:,} (train.stop_on_collapse): {found[0]}")
    signal = stop.signal if trainer.step < trainer.total_steps else None
    return Outcome(trainer.step, trainer.total_steps, signal, time.monotonic() - begin, first)


def _title(trainer: Trainer) -> str:
    train, device = trainer.config.train, trainer.ranks.device
    on_cpu, images = device.type == "cpu", train.batch_size // trainer.ranks.world_size
    where = f"{counted(torch.get_num_threads(), 'thread')} of a CPU" if on_cpu else torch.cuda.get_device_name(device)
    return f"{trainer.config.model.name}, {counted(images, 'image')} on {where}, {train.precision}"


def _json(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, indent=2).encode() + b"\n"

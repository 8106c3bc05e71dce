"""What the main rank of a run writes and says."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..config import Config, save_config
from ..data import CorruptionLog, absolute
from ..parallel.ranks import barrier, micro_batch
from ..runs.atomic import renew_mode, write_atomic
from ..runs.checkpoint import holds_weights, save_checkpoint, save_weights
from ..runs.loggers import open_loggers
from ..runs.metrics import MetricsLog, read_metrics
from .monitoring.diagnostics import Diagnosis, Finding
from .monitoring.online_knn import OnlineKnn
from .monitoring.records import Record, position
from .step.trainer import Trainer, kept_weights


class Reporter(Protocol):
    """Where a run says how it goes; called on the main rank only."""

    def start(self, trainer: Trainer) -> None:
        """The run begins, or goes on, at `trainer.step`."""

    def step(self, step: int, record: dict[str, Any] | None) -> None:
        """A step is done; the record is that of a logged step."""

    def knn(self, record: dict[str, Any]) -> None:
        """k-NN accuracy has been measured."""

    def warning(self, record: dict[str, Any]) -> None:
        """Something is wrong with the run: `Finding` as a record."""

    def stop(self) -> None:
        """The run is over, whatever the reason."""


def write_config(out: Path, config: Config) -> None:
    """Write the settings with which a run goes on; its images are found from any folder."""
    found = replace(config, data=replace(config.data, source=absolute(config.data.source)))
    write_atomic(out / "config.yaml", lambda path: save_config(found, path))


def keep_weights(out: Path, trainer: Trainer, tensors: Mapping[str, Tensor]) -> None:
    """Let model.safetensors be the backbone to keep of a checkpoint's tensors; untouched if it is."""
    path, weights = out / "model.safetensors", kept_weights(trainer.config, tensors)
    facts = {"model": trainer.config.model.name, "step": trainer.step, "samples": trainer.samples}
    if not holds_weights(path, weights, facts):
        save_weights(path, weights, facts)
    else:
        renew_mode(path)


class RunFiles:
    """What the main rank writes and says; other ranks do nothing."""

    def __init__(self, out: Path, trainer: Trainer, reporter: Reporter, unless_collapsed: bool = False):
        self.out, self.reporter, self.log = out, reporter, None
        self.trainer, self.saved = trainer, trainer.step
        self.coming: deque[Record] = deque()
        self.found: list[Finding] = []
        if trainer.ranks.is_main:
            self.log = MetricsLog(out / "metrics.jsonl")
            self.loggers = open_loggers(trainer.config, out, trainer.step)
            self.diagnosis = Diagnosis(trainer.config, micro_batch(trainer.config, trainer.ranks.world_size))
            for record in read_metrics(self.log.path):
                if record.get("kind") == "train":
                    found = self.diagnosis.see(record)  # and has told
                    if unless_collapsed and record["step"] + trainer.lag >= trainer.step:
                        self.found += found

    def __enter__(self) -> RunFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.log is not None:
            self.log.close()
            for logger in self.loggers:
                logger.close()
            self.reporter.stop()

    def losing(self) -> int:
        """Steps since the last checkpoint."""
        return self.trainer.step - self.saved

    def step(self, trainer: Trainer, record: Record | None) -> None:
        if self.log is not None:
            if record is not None:
                self.coming.append(record)
            arrived = self.coming and self.coming[0].due <= trainer.step
            self._report(trainer, self._read(trainer) if arrived else None)

    def write_records(self, trainer: Trainer) -> None:
        """Write those of the last steps as well, for which a device is waited."""
        while self.coming:
            self._report(trainer, self._read(trainer))

    def _read(self, trainer: Trainer) -> dict[str, Any]:
        record = self.coming[0].read(trainer)
        self.coming.popleft()
        self._write(record)
        return record

    def _report(self, trainer: Trainer, record: dict[str, Any] | None) -> None:
        self.reporter.step(trainer.step, record)
        for finding in [] if record is None else self.diagnosis.see(record):
            self.found.append(finding)
            warning = {"kind": "warning"} | {name: record[name] for name in ("step", "samples", "epoch")}
            warning |= {"finding": finding.kind, "since": finding.since}
            warning |= {"evidence": finding.evidence, "remedy": finding.remedy}
            self._write(warning)
            self.reporter.warning(warning)

    def _write(self, record: dict[str, Any]) -> None:
        for log in (self.log, *self.loggers):
            log.write(record)

    def knn(self, trainer: Trainer, knn: OnlineKnn) -> None:
        trainer.settle()  # on all ranks, as it raises: the others would wait for this one
        accuracy = knn(trainer.plain_teacher())
        if self.log is not None:
            self.write_records(trainer)
            record = {"kind": "knn", **position(trainer), **accuracy}
            self._write(record)
            self.reporter.knn(record)
        barrier()

    def checkpoint(self, trainer: Trainer, corrupt: CorruptionLog) -> None:
        tensors, meta = trainer.state()  # likewise
        if self.log is not None:
            self.write_records(trainer)
            meta["corrupt"] = sorted(corrupt.failed)
            save_checkpoint(
                self.out / "checkpoints", trainer.step, tensors, meta, trainer.config.train.keep_checkpoints
            )
            keep_weights(self.out, trainer, tensors)
        barrier()
        self.saved = trainer.step

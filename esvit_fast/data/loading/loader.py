"""From a source to batches of crops: the order of samples, the workers, and what happens to unreadable images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader

from ...config import CropConfig, DataConfig
from ...errors import UserError
from ..batch import Batch, Failure, Jpegs, Sample, TooManyCorrupt
from ..sources.encoded import EncodedSource, Source
from ..views.draws import epoch_order
from .dataset import CropDataset
from .device_decode import DeviceDecoder
from .workers import Full, answers, check_shared_memory, fitting_workers, local_ranks, share, start_worker

logger = logging.getLogger(__name__)


def steps_per_epoch(length: int, batch_size: int) -> int:
    """Optimiser steps in an epoch of `length` images; its last incomplete batch is dropped.

    Raises:
        UserError: there are fewer images than the batch has.
    """
    if length < batch_size:
        raise UserError(
            f"batch_size={batch_size} is larger than the data, which has {length} images; "
            f"pass a batch size of at most {length} or add images"
        )
    return length // batch_size


class MicroBatches:
    """The (epoch, index) pairs of every micro-batch of one rank.

    Global batch g holds samples g * batch_size to (g + 1) * batch_size of the run, cut into accumulation_steps times
    world_size contiguous pieces, the accumulation step being the outer one: the union over ranks is always the same.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        start_samples: int,
        total_samples: int,
        rank: int,
        world_size: int,
        accumulation_steps: int,
    ):
        self.steps = steps_per_epoch(length, batch_size)
        pieces = world_size * accumulation_steps
        if batch_size % pieces:
            near = sorted({max(1, batch_size // pieces) * pieces, (batch_size // pieces + 1) * pieces})
            raise UserError(
                f"batch_size={batch_size} is not divisible by world_size={world_size} x accumulation_steps="
                f"{accumulation_steps}; pass {' or '.join(map(str, near))}"
            )
        if start_samples % batch_size:
            raise UserError(
                f"start_samples={start_samples} is not a multiple of batch_size={batch_size}; "
                "resume with the batch size that the run began with"
            )
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.first, self.end = start_samples // batch_size, -(-total_samples // batch_size)
        self.rank, self.world_size, self.accumulation_steps = rank, world_size, accumulation_steps

    def __len__(self) -> int:
        return max(0, self.end - self.first) * self.accumulation_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        micro = self.batch_size // (self.world_size * self.accumulation_steps)
        current, order = -1, np.empty(0, dtype=np.int64)
        for step in range(self.first, self.end):
            epoch, position = divmod(step, self.steps)
            if epoch != current:
                current, order = epoch, epoch_order(self.seed, epoch, self.length)
            for accumulation in range(self.accumulation_steps):
                start = position * self.batch_size + (accumulation * self.world_size + self.rank) * micro
                yield [(epoch, index) for index in order[start : start + micro].tolist()]


class Loader:
    """Iterate over the batches from start_samples to total_samples; `len` counts them.

    With data.decode=gpu, `decode` makes the crops of a batch that has `jpegs`; else it is None, and none has.

    Raises:
        TooManyCorrupt: while iterating, when image after image cannot be read.
        WorkerDied, SharedMemoryFull: while iterating, as `workers.answers`.
    """

    def __init__(self, loader: DataLoader, decode: DeviceDecoder | None = None):
        self.loader, self.decode = loader, decode

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in answers(self.loader):
            # returned, not raised, by the worker: an exception that crosses processes loses its one-line message
            if isinstance(batch, TooManyCorrupt):
                raise batch
            yield batch


def make_loader(
    source: Source,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start_samples: int,
    total_samples: int,
    rank: int = 0,
    world_size: int = 1,
    accumulation_steps: int = 1,
) -> Loader:
    """Batches of one rank, from sample start_samples of the run until total_samples are reached.

    The same samples, crops and draws for any number of workers and after any resume; for any number of ranks and
    accumulation steps, their union is the same. Tensors are in pinned memory where CUDA is available.

    Raises:
        UserError: fewer images than the batch, a batch that ranks and accumulation steps do not divide, a start that
            is no multiple of the batch, data.decode=gpu for images that are not encoded, or too little shared memory.
    """
    on_device = config.decode == "gpu"
    if on_device and not isinstance(source, EncodedSource):
        raise UserError(
            f"data.decode=gpu decodes JPEGs, but data.source={source.name!r} gives pixels; pass --data.decode cpu"
        )
    batches = MicroBatches(
        len(source),
        batch_size=batch_size,
        seed=seed,
        start_samples=start_samples,
        total_samples=total_samples,
        rank=rank,
        world_size=world_size,
        accumulation_steps=accumulation_steps,
    )
    workers = worker_count(config.workers)
    if not on_device:  # else its images are as large as their files
        micro = batch_size // (world_size * accumulation_steps) * _crop_bytes(config.crops)
        if config.workers >= 0:
            check_shared_memory(workers, micro, held=accumulation_steps)
        elif (fitting := fitting_workers(workers, micro, held=accumulation_steps)) < workers:
            if rank == 0:
                logger.warning(
                    f"data.workers=-1 is {fitting} instead of {workers}: there is shared memory for no more; give it "
                    "more (docker run --shm-size 8g)"
                )
            workers = fitting
    loader = DataLoader(
        CropDataset(source, config, seed, encoded=on_device),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate_shared,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else each iterator would advance the global one
    )
    return Loader(loader, DeviceDecoder(CropDataset(source, config, seed)) if on_device else None)


def collate(samples: list[Sample | TooManyCorrupt]) -> Batch | TooManyCorrupt:
    """Join samples along the batch axis."""
    for sample in samples:
        if isinstance(sample, TooManyCorrupt):
            return sample
    rows = [row for row, sample in enumerate(samples) if sample.jpeg is not None]
    cropped = [sample.crops for sample in samples if sample.jpeg is None]
    return Batch(
        crops=[torch.stack(group, dim=1) for group in zip(*cropped, strict=True)],
        draws=torch.from_numpy(np.stack([sample.draws for sample in samples], axis=1)),
        index=torch.tensor([sample.index for sample in samples]),
        failures=[failure for sample in samples for failure in sample.failures],
        jpegs=Jpegs.join([samples[row].jpeg for row in rows], rows) if rows else None,
    )


def _collate_shared(samples: list[Sample | TooManyCorrupt]) -> Batch | TooManyCorrupt | Full:
    return share(collate(samples))


def _crop_bytes(crops: CropConfig) -> int:
    """Of an image's crops."""
    return sum(3 * size * size for size in crops.sizes)


def worker_count(workers: int) -> int:
    """Processes of a loader: as given, or for -1 one per core of this rank but one, at most 8."""
    if workers >= 0:
        return workers
    return max(0, min(8, cores() // local_ranks() - 1))


def cores() -> int:
    """That this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def too_many_corrupt(count: int, length: int, max_share: float) -> bool:
    """Whether so many unreadable images stop a run: one stops none, unless none is permitted."""
    return count > max(max_share * length, max_share > 0)


class CorruptionLog:
    """Counts the distinct unreadable images of a run, warns of each once, and stops the run when they are too many.

    Args:
        length: images of the source.
        max_share: of them that may be unreadable.
        warn: whether to log, which one rank does for all.
    """

    def __init__(self, length: int, max_share: float, *, warn: bool = True):
        self.length, self.max_share, self.warn = length, max_share, warn
        self.failed: dict[int, str] = {}

    def record(self, failures: list[Failure]) -> None:
        """Note the failures of a batch.

        Raises:
            TooManyCorrupt: a greater share than max_share of all have failed: two or more, unless it is 0.
        """
        for index, path, why in failures:
            if index not in self.failed:
                self.failed[index] = path
                if self.warn:
                    logger.warning("unreadable image replaced: %s: %s", path, why)
        count = len(self.failed)
        if too_many_corrupt(count, self.length, self.max_share):
            *_, last = self.failed.values()
            raise TooManyCorrupt(
                f"data.max_corrupt_share={self.max_share:g} is exceeded: {count} of {self.length} images cannot be "
                f"read, the last is {last}; remove or repair them, or raise data.max_corrupt_share"
            )

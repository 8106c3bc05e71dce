"""What a run will take, before it begins: memory, arithmetic, time, disk, and what to change if it does not fit."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import NamedTuple

import torch

from ...config import Config
from ...data import Source
from ...data.loading.loader import MicroBatches, cores, worker_count
from ...gpus import Gpu
from ...methods import method_of
from ...models import create_model
from ...parallel.precision import settled
from ...parallel.ranks import Ranks, accumulation_steps, least_images, micro_batch
from ..step.schedules import total_steps
from .calibration import Calibration, calibrate, free_memory, loader_rate
from .dry_step import DryStep, dry_step, peak_of
from .estimate import CONTEXT, seconds

OVERHEAD = 1.2
"""Bytes of memory for a byte of tensors where no step was measured: allocators round, libraries hold copies."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
        process: of the process before there is a network (on a GPU, its context).
        fixed: that libraries take with the first steps.
        overhead: bytes that are taken for a byte of tensors, by what allocators and libraries keep.
        peak: that a run takes in all.
        limit: that it may take; None: the system does not tell.
        largest: micro-batch of the largest step that fits; 0: none does; None without a limit.
    """

    process: int
    fixed: int
    overhead: float
    peak: int
    limit: int | None
    largest: int | None


@dataclass(frozen=True)
class Time:
    """Of a run, in seconds and images per second over all ranks.

    Attributes:
        step: seconds of a step without waiting for images.
        network: images per second that steps could take.
        loader: images per second that the loaders of all ranks can give; None without data.
        run: images per second of both together.
        limit: "network" or "loader", whichever takes longer; None without data.
        loader_cores: cores of this kind that feed the network, per rank; None without data.
        steps, total: of the whole run, and its seconds without evaluation and checkpoints; None without data.
    """

    step: float
    network: float
    loader: float | None
    run: float
    limit: str | None
    loader_cores: float | None
    steps: int | None
    total: float | None


@dataclass(frozen=True)
class RunPlan:
    """All that is known of a run before it begins.

    Attributes:
        images: of a micro-batch.
        step: what it takes on one device.
        memory: with what is around it.
        time: None where no step could be tried.
        disk: bytes of the checkpoints that are kept, one more while it is written, and the model.
        remedy: settings that make it fit, as on the command line; None where it fits, "" where none were found.
    """

    images: int
    step: DryStep
    memory: Memory
    time: Time | None
    disk: int
    remedy: str | None


def plan_run(
    config: Config,
    ranks: Ranks,
    source: Source | None = None,
    limit: int | None = None,
    measure: bool = True,
    *,
    gpu: Gpu | None = None,
    budget: float = 45.0,
    say: Callable[[str], None] = lambda line: None,
) -> RunPlan:
    """Predict a run on `ranks.world_size` devices like `ranks.device`, or GPUs that are not here.

    Args:
        source: its images; without, there is no time to finish.
        limit: bytes of a device's memory; None: what it has.
        measure: take steps; otherwise only memory and arithmetic are predicted.
        gpu: what all devices are; nothing is measured then, and time is estimated from arithmetic and bytes.
        budget: seconds in which steps are taken; one of the fewest images is taken whatever it lasts.
        say: is told what is under way, line by line.

    Raises:
        UserError: the batch cannot be divided among ranks and accumulation steps, or the images are fewer.
    """
    ranks = ranks if gpu is None else replace(ranks, device=torch.device("cuda"))
    config = settled(config, ranks, gpu and gpu.capability)
    train, images, least = config.train, micro_batch(config, ranks.world_size), least_images(config)
    length = train.batch_size if source is None else len(source)
    MicroBatches(
        length,
        batch_size=train.batch_size,
        seed=train.seed,
        start_samples=0,
        total_samples=train.batch_size,
        rank=0,
        world_size=ranks.world_size,
        accumulation_steps=accumulation_steps(train, ranks.world_size),
    )
    say("counting memory and arithmetic …")
    peaks = lru_cache(maxsize=None)(lambda config, images: dry_step(config, images, ranks))
    peak = _peaks(config, images, peaks)
    step, limit = peaks(config, images), limit or (free_memory(ranks) if gpu is None else gpu.memory)
    measured, process, fixed, overhead = None, 0 if gpu is None else CONTEXT, 0, OVERHEAD
    if measure and gpu is None and (limit is None or OVERHEAD * peak(least) < limit):
        say(f"trying steps, for about {budget:.0f} s at most …")
        measured = calibrate(config, images, Ranks(0, 1, ranks.device), budget, say)
        process = measured.process
        fixed, overhead = around_tensors(config, measured, ranks)
    room = None if limit is None else (limit - process - fixed) / overhead
    largest = None if room is None else largest_batch(peak, room, images, least)
    remedy = None
    if room is not None and step.peak > room:
        say("looking for what would fit …")
        ways = list(_remedies(config, ranks, largest))
        first = bisect_left(ways, True, key=lambda way: peaks(way.config, way.images).peak <= room)
        remedy = ways[first].flags if first < len(ways) else ""
    return RunPlan(
        images,
        step,
        Memory(process, fixed, overhead, process + fixed + round(overhead * step.peak), limit, largest),
        _time(config, ranks, step if gpu else measured, images, source, gpu, say) if gpu or measured else None,
        (train.keep_checkpoints + 1) * step.checkpoint + 2 * step.model,
        remedy,
    )


def _peaks(config: Config, images: int, steps: Callable[[Config, int], DryStep]) -> Callable[[int], int]:
    """The peak of a micro-batch of any size, from dry steps of two sizes, or of three where images are compared."""
    most = max(images, 4)
    sizes = (2, most, 2 * most) if method_of(config).compares_images(config.method) else (2, most)

    @cache
    def peak(count: int) -> int:
        if count in sizes:
            return steps(config, count).peak
        found = peak_of(count, {size: steps(config, size) for size in sizes})
        return steps(config, count).peak if found is None else found

    return peak


def around_tensors(config: Config, measured: Calibration, ranks: Ranks) -> tuple[int, float]:
    """Bytes that are taken beside tensors, and for each of their bytes: a line through what was measured."""
    if not measured.grown:
        return 0, OVERHEAD
    last = (-2, -1) if len(measured.grown) > 1 else (-1, -1)
    train = replace(config.train, accumulation_steps=1, micro_batch_size=0)
    alone = replace(config, train=train, data=replace(config.data, decode="cpu"))  # of noise
    few, many = (dry_step(alone, measured.images[i], Ranks(0, 1, ranks.device)).peak for i in last)
    least, most = (measured.grown[i] for i in last)
    if most < 0.9 * many:  # the process had freed memory to take from
        return 0, OVERHEAD
    overhead = (most - least) / (many - few) if many - few > few / 8 else OVERHEAD
    overhead = max(1.0, min(overhead, most / many))
    return max(0, round(most - overhead * many)), overhead


def largest_batch(peak: Callable[[int], float], room: float, start: int, least: int = 1) -> int:
    """The largest number of images whose peak fits the room; 0 if that of `least` does not.

    A peak is the greatest of several things that are linear in images, so that lines through two sizes soon find it.
    """
    if peak(least) > room:
        return 0
    low, high = least, max(start, least + 1)
    while peak(high) <= room:
        slope = (peak(high) - peak(low)) / (high - low)
        further = math.ceil((room - peak(high)) / slope) if slope > 0 else 7 * high
        low, high = high, high + min(max(1, further), 63 * high)
    while high - low > 1:
        share = (room - peak(low)) / (peak(high) - peak(low))
        middle = min(max(low + int(share * (high - low)), low + 1), high - 1)
        low, high = (middle, high) if peak(middle) <= room else (low, middle)
    return low


class Way(NamedTuple):
    """Settings that need less memory: as on the command line, in a configuration, and the micro-batch."""

    flags: str
    config: Config
    images: int


def _remedies(config: Config, ranks: Ranks, largest: int) -> Iterator[Way]:
    """Ways that need ever less memory, each with those before it; the mildest first: the same run in smaller pieces,
    the same numbers in more time, and then another run."""
    per_rank, least, said = config.train.batch_size // ranks.world_size, least_images(config), {}
    images = pieces = micro_batch(config, ranks.world_size)

    def changed(name: str, value: object, **sections: object) -> Way:
        nonlocal config
        config = replace(config, **sections)
        said[name] = value
        return Way(" ".join(f"--{name} {value}".rstrip() for name, value in said.items()), config, images)

    for count in range(2, pieces // least + 1):
        # a step of several micro-batches needs more than one of them alone
        if pieces % count == 0 and (pieces // count <= largest or count == pieces // least):
            images = pieces // count
            if config.train.micro_batch_size:
                train = replace(config.train, micro_batch_size=images)
                yield changed("train.micro-batch-size", images, train=train)
            else:
                steps = per_rank // images
                yield changed("train.accumulation-steps", steps, train=replace(config.train, accumulation_steps=steps))
    with torch.device("meta"):
        stages = len(create_model(config.model.name).stages())
    for count in range(1, stages + 1):
        if not set(range(count)) <= set(config.model.checkpoint_stages):
            again = tuple(sorted({*config.model.checkpoint_stages, *range(count)}))
            model = replace(config.model, checkpoint_stages=again)
            yield changed("model.checkpoint-stages", " ".join(map(str, again)), model=model)
    if ranks.world_size > 1 and config.train.precision != "fp16" and not config.train.shard:
        yield changed("train.shard", "", train=replace(config.train, shard=True))
    if config.train.precision == "fp32":
        yield changed("train.precision", "bf16", train=replace(config.train, precision="bf16"))
    while sum(counts := config.data.crops.local_counts) > len(counts):
        crops = replace(config.data.crops, local_counts=tuple((n + 1) // 2 for n in counts))
        told = " ".join(map(str, crops.local_counts))
        yield changed("data.crops.local-counts", told, data=replace(config.data, crops=crops))
    for name, value in method_of(config).smaller(config.method):
        yield changed(f"method.{name.replace('_', '-')}", value, method=replace(config.method, **{name: value}))


def _time(
    config: Config,
    ranks: Ranks,
    known: Calibration | DryStep,
    images: int,
    source: Source | None,
    gpu: Gpu | None,
    say: Callable[[str], None],
) -> Time:
    train, accumulated = config.train, accumulation_steps(config.train, ranks.world_size)
    if isinstance(known, DryStep):
        step = seconds(known.work, gpu, config, accumulated, known.traced)
    else:
        step = known.step_seconds(images, accumulated)
    network = train.batch_size / step
    if source is None:
        return Time(step, network, None, network, None, None, None, None)
    steps = total_steps(config, len(source) // train.batch_size * train.batch_size)
    if gpu is not None:  # this machine's cores are not those beside it
        return Time(step, network, None, network, None, None, steps, steps * step)
    say("trying the loader …")
    workers = worker_count(config.data.workers)
    rate = loader_rate(config, source, ranks.device)  # of one rank
    busy = max(1, workers) / rate  # seconds of a core for an image
    each = ranks.world_size / network  # seconds of a rank for an image
    if workers == 0:
        together = each + busy
    elif ranks.device.type == "cpu":
        together = max(each + busy / cores(), 1 / rate)  # steps and workers share the cores
    else:
        together = max(each, 1 / rate)
    run = ranks.world_size / together
    limit = "loader" if 1 / rate > each else "network"
    loader = ranks.world_size * rate
    return Time(step, network, loader, run, limit, busy / each, steps, steps * train.batch_size / run)

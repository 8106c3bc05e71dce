"""Seconds of real steps and real images, from which a plan tells what any number of them takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...config import Config
from ...data import Source, check_device_decode, make_loader, prefetch
from ...data.loading.loader import worker_count
from ...parallel.ranks import Ranks, least_images
from ..step.trainer import Trainer
from .dry_step import noise
from .memory import give_back_freed_memory, system_bytes

_STEPS, _WARM_UP = 5, 2  # memory still grows in the second


@dataclass(frozen=True)
class Calibration:
    """What steps of noise took.

    Attributes:
        images: of each micro-batch that was tried, rising.
        seconds: medians, of a step less its update.
        update: seconds of the optimiser, the teacher and the centres, whatever the batch.
        process: bytes of the process, or of the GPU's context, before there was a network.
        grown: bytes by which memory grew for each; empty where the system does not tell.
    """

    images: tuple[int, ...]
    seconds: tuple[float, ...]
    update: float
    process: int
    grown: tuple[int, ...]

    def step_seconds(self, images: int, accumulation_steps: int = 1) -> float:
        """Of a step of micro-batches of so many images: what was measured, or a line through the last two sizes."""
        if images in self.images:
            each = self.seconds[self.images.index(images)]
        elif len(self.images) == 1:
            each = self.seconds[0] * images / self.images[0]
        else:
            (few, many), (short, long) = self.images[-2:], self.seconds[-2:]
            # no image is free, and nothing takes less than none of them
            slope = min(max((long - short) / (many - few), 0.5 * long / many), long / many)
            each = long + (images - many) * slope if images > many else long * images / many
        return accumulation_steps * each + self.update


def calibrate(
    config: Config, images: int, ranks: Ranks, budget: float = 45.0, say: Callable[[str], None] = lambda line: None
) -> Calibration:
    """Time steps of 1, 2, 4, … images, until that of `images` is reached or the budget of seconds would be exceeded.

    A step of the fewest images is taken whatever it lasts. `say` is told what each size takes.
    """
    begun_at, least = time.perf_counter(), least_images(config)
    alone = {"batch_size": images, "accumulation_steps": 1, "micro_batch_size": 0, "freeze_last_layer_epochs": 0.0}
    alone |= {"compile": False, "cuda_graph": False}
    train = replace(config.train, **alone)
    process = _reset_peak(ranks.device)
    trainer = Trainer(replace(config, train=train), 10**6 * images, ranks)
    trainer.scaler = torch.amp.GradScaler(ranks.device.type, init_scale=1.0, enabled=train.precision == "fp16")
    begun: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda *_: begun.append(now(ranks.device)))
    sizes, seconds, updates, grown = [], [], [], []
    size = min(least, images)
    while True:
        _reset_peak(ranks.device)
        taken: list[tuple[float, float]] = []
        while len(taken) < _STEPS and (not taken or time.perf_counter() - begun_at < budget):
            batch, begin = noise(config, size), now(ranks.device)
            trainer.train_step([batch])
            end = now(ranks.device)
            middle = begun[-1] if begun else end
            taken.append((middle - begin, end - middle))
            begun.clear()
        taken = taken[_WARM_UP:] or taken[-1:]
        updates += [update for _, update in taken]
        sizes.append(size)
        seconds.append(statistics.median(step for step, _ in taken))
        say(f"a step of {size} image{'s' * (size > 1)} takes {seconds[-1] + updates[-1]:.2g} s")
        grown += [] if (most := _grown(process, ranks.device)) is None else [most]
        following = min(2 * size, images)
        left = budget - (time.perf_counter() - begun_at)
        if size == images or left < _STEPS * (seconds[-1] * following / size + updates[-1]):
            return Calibration(tuple(sizes), tuple(seconds), statistics.median(updates), process, tuple(grown))
        size = following


def loader_rate(config: Config, source: Source, device: torch.device, seconds: float = 3.0) -> float:
    """Images per second that the configured workers, or a device, decode and crop, for no longer than some seconds.

    Raises:
        UserError: the device is to decode, and cannot.
    """
    if config.data.decode == "gpu":
        check_device_decode(device)
    batch = min(8, len(source))
    loader = make_loader(
        source, config.data, batch_size=batch, seed=config.train.seed, start_samples=0, total_samples=batch * 10**6
    )
    batches = prefetch(loader, device, decode=loader.decode)
    next(batches)  # what starts workers is no part of it
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds or done < 2 * batch:
        next(batches)
        done += batch
    ahead = 2 * worker_count(config.data.workers) * batch  # may have been made while workers started
    return max(done - ahead, done / 2) / (time.perf_counter() - begin)


def free_memory(ranks: Ranks) -> int | None:
    """Bytes that a rank could take: all of a GPU, or its part of what the system has; None where it does not tell."""
    if ranks.device.type == "cuda":
        return torch.cuda.get_device_properties(ranks.device).total_memory
    free = system_bytes("/proc/meminfo", "MemAvailable")
    return None if free is None else free // ranks.world_size


def now(device: torch.device) -> float:
    """Seconds on a clock, when all is done that the device was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _reset_peak(device: torch.device) -> int:
    """Forget the peak so far, and what is freed; what is taken already, by whatever is no tensor."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        free, total = torch.cuda.mem_get_info(device)
        return max(0, total - free - torch.cuda.memory_reserved(device))
    give_back_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return system_bytes("/proc/self/status", "VmRSS") or 0


def _grown(process: int, device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    most = system_bytes("/proc/self/status", "VmHWM")
    return most - process if most and process else None

"""Batches on their way to the device while the one before is at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

import torch

from ..batch import Batch, TooManyCorrupt

_AHEAD = 1  # with the step that runs, two batches of crops are on the device


def prefetch(
    batches: Iterable[Batch],
    device: torch.device,
    cuda: ModuleType = torch.cuda,
    decode: Callable[[Batch, torch.device], Batch] | None = None,
) -> Iterator[Batch]:
    """The batches, in order, with their crops on the device; on a CPU as they come.

    A stream of its own copies a batch from pinned memory, or decodes it, while the caller's stream works on the batch
    before. Draws stay on the CPU, where the augmentation looks at them. What ends the batches early is raised after
    those before it.

    Args:
        cuda: the streams and events of the device.
        decode: makes the crops of a batch that has `jpegs`, on the device; `Loader.decode`.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch if batch.jpegs is None else decode(batch, device)
        return
    stream, failure = cuda.Stream(device), None
    coming: deque[tuple[Batch, torch.cuda.Event]] = deque()
    try:
        for batch in batches:
            coming.append(_send(batch, device, stream, cuda, decode))
            if len(coming) > _AHEAD:
                yield _receive(*coming.popleft(), cuda.current_stream(device))
    except TooManyCorrupt as error:
        failure = error
    while coming:
        yield _receive(*coming.popleft(), cuda.current_stream(device))
    if failure is not None:
        raise failure


def _send(batch: Batch, device: torch.device, stream: torch.cuda.Stream, cuda: ModuleType, decode: Callable | None):
    with cuda.stream(stream):
        if batch.jpegs is not None:
            return decode(batch, device), stream.record_event()
        crops = [crop.to(device, non_blocking=True) for crop in batch.crops]
        return batch._replace(crops=crops), stream.record_event()


def _receive(batch: Batch, copied: torch.cuda.Event, stream: torch.cuda.Stream) -> Batch:
    stream.wait_event(copied)
    for crop in batch.crops:
        crop.record_stream(stream)  # else the copies after this would be given its memory while it is read
    return batch

"""A function of every image, in order, by worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..loading.loader import worker_count
from ..loading.workers import answers, share, start_worker
from ..sources.encoded import Source

CHUNK = 16
"""Images that a process answers for at a time."""


class _Each(Dataset):
    def __init__(self, function: Callable[[Source, int], Any], source: Source, rows: Sequence[int]):
        self.function, self.source, self.rows = function, source, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Any:
        return self.function(self.source, self.rows[position])


def each(
    function: Callable[[Source, int], Any], source: Source, rows: Sequence[int], workers: int = -1
) -> Iterator[Any]:
    """`function(source, row)` for every row, in their order; the function must pickle.

    Args:
        workers: processes, as `data.workers`: -1 is one per core but one, at most 8; 0 is this process.

    Raises:
        WorkerDied, SharedMemoryFull: as `workers.answers`.
    """
    loader = DataLoader(
        _Each(function, source, rows),
        batch_size=CHUNK,
        collate_fn=share,
        num_workers=min(worker_count(workers), -(-len(rows) // CHUNK)),
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else it would advance the global one
    )
    for chunk in answers(loader):
        yield from chunk

"""Numbers of a device, read when it has come to them."""

from __future__ import annotations

import torch
from torch import Tensor


class Late:
    """A tensor on its way to the host: the copy is queued now, and waited for when it is read."""

    def __init__(self, values: Tensor):
        self._values, self._arrived = values.detach().to("cpu", non_blocking=True), None  # into pinned memory
        if values.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> Tensor:
        """The tensor on the CPU; waits until the device has come to the copy, and no further."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values

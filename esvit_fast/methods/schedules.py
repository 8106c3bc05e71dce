"""Rules by which numbers move over a run."""

from __future__ import annotations

import math


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` to `end` on half a cosine, as `progress` goes from 0 to 1; then it stays."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(1.0, progress)))

"""Counter-based random numbers: functions of (seed, epoch, image), whatever the workers, ranks and resumes."""

from __future__ import annotations

import numpy as np

ATTEMPTS = 10
"""Boxes that a random resized crop tries before it falls back to the central one."""
CROP = slice(0, 2 * ATTEMPTS + 2)
"""Slots of a view: 10 areas, 10 aspect ratios, top, left."""
AUGMENT = slice(CROP.stop, CROP.stop + 11)
"""Slots of the augmentation, in the order below."""
FLIP, JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GRAYSCALE, BLUR, SIGMA, SOLARIZE = range(11)
SLOTS = 40
"""Uniforms per view; those after the augmentation are spare, so that a new operation changes no earlier stream."""

_ORDER_OF_EPOCH, _VIEWS, _REPLACEMENT = range(3)


def uniforms(seed: int, epoch: int, index: int, views: int) -> np.ndarray:
    """Uniforms of one image in one epoch, float64 [views, SLOTS] in [0, 1).

    One Philox stream (Salmon et al., 2011) per (seed, epoch, image), read view by view: more views change no earlier.
    """
    raw = _philox(seed, _VIEWS, index, epoch).random_raw(views * SLOTS)
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(views, SLOTS)


def epoch_order(seed: int, epoch: int, length: int) -> np.ndarray:
    """A permutation of range(length) for one epoch, int64 [length]."""
    return np.argsort(_philox(seed, _ORDER_OF_EPOCH, 0, epoch).random_raw(length), kind="stable")


def replacements(seed: int, epoch: int, index: int, length: int, count: int) -> list[int]:
    """The images, in this order, that may stand in for an unreadable one."""
    return (_philox(seed, _REPLACEMENT, index, epoch).random_raw(count) % np.uint64(length)).tolist()


def _philox(seed: int, purpose: int, index: int, epoch: int) -> np.random.Philox:
    # raw words of a bit generator are stable across NumPy versions; the methods of Generator are not
    key = np.array([seed % 2**64, purpose], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, index, epoch], dtype=np.uint64))

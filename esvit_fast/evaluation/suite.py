"""The numbers of a finished run: trained against untrained weights, and against raw pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..config import AugmentConfig
from ..data import Source
from .bench import (
    Bench,
    RawPixels,
    evaluate_correspondence,
    evaluate_health,
    evaluate_knn,
    evaluate_linear,
    evaluated_images,
)
from .result import EvalSettings, Result

_DEFAULTS = EvalSettings()


def evaluate_run(
    model: nn.Module,
    untrained: nn.Module,
    train_source: Source,
    test_source: Source | None,
    augment: AugmentConfig,
    settings: EvalSettings = _DEFAULTS,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Result]:
    """Evaluate a backbone before and after training by every protocol.

    Without classes there is neither k-NN nor a linear probe.

    Args:
        model, untrained: the trained backbone and one of the same architecture with random weights.
        augment: holds the mean and standard deviation to normalise with.
        progress: called with (what, done, of).

    Returns:
        The results by the names of their protocols: knn (with raw pixels), linear, correspondence
        and health.

    Raises:
        UserError: the two sources have no class in common, or no image of a source can be read.
    """
    images = evaluated_images(train_source, test_source, settings)
    networks = {"trained": model, "untrained": untrained, "raw pixels": RawPixels()}
    bench = Bench(networks, images, settings, augment, device, progress)
    results = [evaluate_knn(bench), evaluate_linear(bench)] if len(images.sides) == 2 else []
    results += [evaluate_correspondence(bench), evaluate_health(bench)]
    return {result.protocol: result for result in results}

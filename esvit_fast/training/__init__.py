"""Time, ranks, files and failures: pretraining runs."""

from ..parallel.ranks import Ranks, pick_device, setup_distributed, teardown_distributed
from .files import Reporter
from .run import Outcome, pretrain, resume
from .step.trainer import NotFinite, Trainer, build_backbone, build_method

__all__ = [
    "NotFinite",
    "Outcome",
    "Ranks",
    "Reporter",
    "Trainer",
    "build_backbone",
    "build_method",
    "pick_device",
    "pretrain",
    "resume",
    "setup_distributed",
    "teardown_distributed",
]

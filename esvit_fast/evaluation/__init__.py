"""From frozen networks to numbers and pictures: protocols, tasks, suites, and the measures that they are made of."""

import typing

if typing.TYPE_CHECKING:  # torch takes seconds to import, and `esvit-fast eval --help` needs none of it
    from .bench import Bench, RawPixels
    from .catalog import get_protocol, list_protocols
    from .features import Features, extract_features
    from .measures.correspondence import (
        Correspondence,
        CorrespondenceAccuracy,
        correspondence,
        correspondence_accuracy,
    )
    from .measures.health import FeatureHealth, effective_rank, feature_health
    from .measures.knn import Accuracy, knn, nearest
    from .measures.linear import LEARNING_RATES, LinearProbe, linear_probe
    from .presentation import Card, Comparison, Grid
    from .protocol import Needs, Protocol, register_protocol
    from .result import Result
    from .settings import ImageSettings, Settings, SizeSettings, setting
    from .suite import Entry, default_suite, evaluate, evaluate_run, run_suite
    from .targets import Targets, register_targets, require_labels, subset
    from .task import Images, Task

_HOMES = {
    "bench": ("Bench", "RawPixels"),
    "catalog": ("get_protocol", "list_protocols"),
    "features": ("Features", "extract_features"),
    "measures.correspondence": (
        "Correspondence",
        "CorrespondenceAccuracy",
        "correspondence",
        "correspondence_accuracy",
    ),
    "measures.health": ("FeatureHealth", "effective_rank", "feature_health"),
    "measures.knn": ("Accuracy", "knn", "nearest"),
    "measures.linear": ("LEARNING_RATES", "LinearProbe", "linear_probe"),
    "presentation": ("Card", "Comparison", "Grid"),
    "protocol": ("Needs", "Protocol", "register_protocol"),
    "result": ("Result",),
    "settings": ("ImageSettings", "Settings", "SizeSettings", "setting"),
    "suite": ("Entry", "default_suite", "evaluate", "evaluate_run", "run_suite"),
    "targets": ("Targets", "register_targets", "require_labels", "subset"),
    "task": ("Images", "Task"),
}
__all__ = [
    "LEARNING_RATES",
    "Accuracy",
    "Bench",
    "Card",
    "Comparison",
    "Correspondence",
    "CorrespondenceAccuracy",
    "Entry",
    "FeatureHealth",
    "Features",
    "Grid",
    "ImageSettings",
    "Images",
    "LinearProbe",
    "Needs",
    "Protocol",
    "RawPixels",
    "Result",
    "Settings",
    "SizeSettings",
    "Targets",
    "Task",
    "correspondence",
    "correspondence_accuracy",
    "default_suite",
    "effective_rank",
    "evaluate",
    "evaluate_run",
    "extract_features",
    "feature_health",
    "get_protocol",
    "knn",
    "linear_probe",
    "list_protocols",
    "nearest",
    "register_protocol",
    "register_targets",
    "require_labels",
    "run_suite",
    "setting",
    "subset",
]


def __getattr__(name: str):
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"typing"})

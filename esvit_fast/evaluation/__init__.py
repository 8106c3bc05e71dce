"""From frozen features to numbers and pictures: k-NN, linear probe, feature health, region correspondence."""

from .bench import (
    Bench,
    Images,
    RawPixels,
    evaluate_correspondence,
    evaluate_health,
    evaluate_knn,
    evaluate_linear,
    evaluated_images,
    pictured_images,
)
from .features import Features, extract_features, require_labels, subset
from .measures.correspondence import (
    Correspondence,
    CorrespondenceAccuracy,
    correspondence,
    correspondence_accuracy,
)
from .measures.health import FeatureHealth, effective_rank, feature_health
from .measures.knn import Accuracy, knn, nearest
from .measures.linear import LEARNING_RATES, LinearProbe, linear_probe
from .result import EvalSettings, Result
from .suite import evaluate_run

__all__ = [
    "LEARNING_RATES",
    "Accuracy",
    "Bench",
    "Correspondence",
    "CorrespondenceAccuracy",
    "EvalSettings",
    "FeatureHealth",
    "Features",
    "Images",
    "LinearProbe",
    "RawPixels",
    "Result",
    "correspondence",
    "correspondence_accuracy",
    "effective_rank",
    "evaluate_correspondence",
    "evaluate_health",
    "evaluate_knn",
    "evaluate_linear",
    "evaluate_run",
    "evaluated_images",
    "extract_features",
    "feature_health",
    "knn",
    "linear_probe",
    "nearest",
    "pictured_images",
    "require_labels",
    "subset",
]

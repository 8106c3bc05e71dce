"""From frozen features to numbers and pictures: k-NN, linear probe, feature health, region correspondence, report."""

from esvit_fast.evaluation.correspondence import (
    Correspondence,
    CorrespondenceAccuracy,
    correspondence,
    correspondence_accuracy,
)
from esvit_fast.evaluation.features import Features, extract_features, require_labels, subset
from esvit_fast.evaluation.health import FeatureHealth, effective_rank, feature_health
from esvit_fast.evaluation.knn import Accuracy, knn, nearest
from esvit_fast.evaluation.linear import LEARNING_RATES, LinearProbe, linear_probe
from esvit_fast.evaluation.protocols import (
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
from esvit_fast.evaluation.report import write_report
from esvit_fast.evaluation.result import EvalSettings, Result
from esvit_fast.evaluation.suite import evaluate_run

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
    "write_report",
]

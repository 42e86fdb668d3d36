"""Metrics that torchmetrics does not have, and the right settings for those it has.

All of them are right for any division of the data among batches and processes.
"""

from lit_modules.metrics.coref import CoreferenceScore
from lit_modules.metrics.exact import ExactMean, ExactMetric, Metrics
from lit_modules.metrics.hotpot import HotpotScore
from lit_modules.metrics.labels import CandidateAccuracy, classification_metrics
from lit_modules.metrics.qa import AnswerScore

__all__ = [
    "AnswerScore",
    "CandidateAccuracy",
    "CoreferenceScore",
    "ExactMean",
    "ExactMetric",
    "HotpotScore",
    "Metrics",
    "classification_metrics",
]

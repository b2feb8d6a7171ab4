"""Evaluation of one record: curves over thresholds, exact frontiers, and statistics of each exit."""

from offramp.evaluation.curves import (
    accuracy_without_loss,
    choose_threshold,
    default_thresholds,
    evaluate,
    frontier,
    outcomes,
    threshold_on,
)
from offramp.evaluation.rejection import Rejection, RiskCoverage, choose_rejection, risk_coverage
from offramp.policies.base import decide

__all__ = [
    "Rejection",
    "RiskCoverage",
    "accuracy_without_loss",
    "choose_rejection",
    "choose_threshold",
    "decide",
    "default_thresholds",
    "evaluate",
    "frontier",
    "outcomes",
    "risk_coverage",
    "threshold_on",
]

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
from offramp.policies.base import decide

__all__ = [
    "accuracy_without_loss",
    "choose_threshold",
    "decide",
    "default_thresholds",
    "evaluate",
    "frontier",
    "outcomes",
    "threshold_on",
]

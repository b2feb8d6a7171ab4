"""One record, every threshold: curves, exact frontiers and each exit by itself."""

from offramp.evaluation.curves import choose_threshold, evaluate, frontier, outcomes, threshold_on
from offramp.policies.base import decide

__all__ = ["choose_threshold", "decide", "evaluate", "frontier", "outcomes", "threshold_on"]

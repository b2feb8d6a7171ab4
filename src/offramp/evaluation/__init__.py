"""One record, every threshold: curves, exact frontiers and each exit by itself."""

from offramp.evaluation.curves import choose_threshold, decide, evaluate, frontier, outcomes, threshold_on

__all__ = ["choose_threshold", "decide", "evaluate", "frontier", "outcomes", "threshold_on"]

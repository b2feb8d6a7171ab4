"""Figures, tables and the page of a study; displays of a record."""

from offramp.reports.displays import ControlDisplay, FrontierDisplay, ReliabilityDisplay

__all__ = ["ControlDisplay", "FrontierDisplay", "ReliabilityDisplay"]

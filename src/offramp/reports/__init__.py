"""Figures, tables and the report page of a study, and displays of a record."""

from offramp.reports.displays import ControlDisplay, FrontierDisplay, ReliabilityDisplay, StreamDisplay

__all__ = ["ControlDisplay", "FrontierDisplay", "ReliabilityDisplay", "StreamDisplay"]

"""The exit record: what every system that answers in stages leaves behind."""

from offramp.records.record import FORMAT, ExitRecord

__all__ = ["FORMAT", "ExitRecord"]

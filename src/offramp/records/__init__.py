"""Exit records: the outputs of multi-exit systems, and their import from the files of other programs."""

from offramp.records.outputs import ExitOutputs
from offramp.records.record import FORMAT, ExitRecord

__all__ = ["FORMAT", "ExitOutputs", "ExitRecord"]

"""Import of the outputs of other programs as exit records."""

from offramp.records.importing.outputs import import_outputs

__all__ = ["import_outputs"]

"""Several records made into one, the search over all cascades, and the fronts of single models."""

from offramp.cascades.building import cascade

__all__ = ["cascade"]

"""Cascades: combining records into one, searching all cascades of a set of models, and fronts of single models."""

from offramp.cascades.building import cascade, router

__all__ = ["cascade", "router"]

"""Comparison of several runs, with intervals for all results."""

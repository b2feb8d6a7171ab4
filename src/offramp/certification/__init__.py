"""Thresholds with a finite-sample guarantee: the risk of a policy is at most a level, with a given confidence."""

from offramp.certification.certifying import Certificate, TooFewSamples, certify

__all__ = ["Certificate", "TooFewSamples", "certify"]

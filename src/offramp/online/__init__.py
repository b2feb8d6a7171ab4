"""Policies that follow a shift, alarms that notice one, and streams of records to try them on."""

from offramp.online.alarms import ConfidenceAlarm, RiskAlarm
from offramp.online.methods import METHODS
from offramp.online.online import Deciding, Online, OnlineAnswers
from offramp.online.streams import drift, run_stream, shifted

__all__ = [
    "METHODS",
    "ConfidenceAlarm",
    "Deciding",
    "Online",
    "OnlineAnswers",
    "RiskAlarm",
    "drift",
    "run_stream",
    "shifted",
]

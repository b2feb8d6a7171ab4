"""Early-exit policies: decide, for each input, at which stage a model with several stages has computed enough."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from offramp.cascades import cascade, router
from offramp.certification import Certificate, certify
from offramp.evaluation import choose_rejection, choose_threshold, decide, evaluate, frontier, risk_coverage
from offramp.policies import NotFittedError, Policy, load_policies, make_policy, save_policies
from offramp.records import ExitOutputs, ExitRecord

if TYPE_CHECKING:
    from offramp.acceleration.accelerating import accelerate

__all__ = [
    "Certificate",
    "ExitOutputs",
    "ExitRecord",
    "NotFittedError",
    "Policy",
    "accelerate",
    "cascade",
    "certify",
    "choose_rejection",
    "choose_threshold",
    "decide",
    "evaluate",
    "frontier",
    "load_policies",
    "make_policy",
    "risk_coverage",
    "router",
    "save_policies",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name == "accelerate":  # needs torch
        return import_module("offramp.acceleration.accelerating").accelerate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

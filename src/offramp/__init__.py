"""Early-exit policies: decide, for each input, at which stage a model with several stages has computed enough."""

from offramp.cascades import cascade, router
from offramp.certification import Certificate, certify
from offramp.evaluation import choose_rejection, choose_threshold, decide, evaluate, frontier, risk_coverage
from offramp.policies import NotFittedError, Policy, load_policies, make_policy, save_policies
from offramp.records import ExitOutputs, ExitRecord

__all__ = [
    "Certificate",
    "ExitOutputs",
    "ExitRecord",
    "NotFittedError",
    "Policy",
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
__version__ = "0.1.0"

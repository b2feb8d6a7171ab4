"""Exit policies: decide, input by input, when a model that answers in stages has computed enough."""

from offramp.cascades import cascade
from offramp.evaluation import choose_threshold, decide, evaluate, frontier
from offramp.policies import NotFittedError, Policy, load_policies, make_policy, save_policies
from offramp.records import ExitRecord

__all__ = [
    "ExitRecord",
    "NotFittedError",
    "Policy",
    "cascade",
    "choose_threshold",
    "decide",
    "evaluate",
    "frontier",
    "load_policies",
    "make_policy",
    "save_policies",
]
__version__ = "0.1.0"

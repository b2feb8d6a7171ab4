"""
Adding a policy
===============

A policy is a class with one method, which returns the signal of the samples at one exit. The rest, from frontiers to
certified thresholds and exported models, works with it at once.
"""

from dataclasses import dataclass

import numpy as np

from offramp import Policy, certify, make_policy
from offramp.records.example import example_records
from offramp.records.splitting import split_record
from offramp.reports import FrontierDisplay


@dataclass
class Rising(Policy):
    """Exit if the exit is confident, and more so if it is more confident than the exit before it.

    Parameters
    ----------
    weight : float
        Weight of the rise of the confidence.
    """

    weight: float = 0.5

    name = "rising"
    rule = "confidence of the exit plus a part of its rise since the exit before it ≥ δ"
    paper = "an example"

    def _step(self, outputs, stream):
        confidence = outputs.score("max_softmax")  # (n,)
        rise = confidence - stream.past.get("confidence", confidence)  # (n,)
        stream.past["confidence"] = confidence
        return confidence + self.weight * rise


# %%
# ``stream.past`` keeps what later exits need. Samples that have left are removed from it.

validation, test = example_records()
policies = {"rising": Rising(), "confidence": make_policy("confidence")}
FrontierDisplay.from_record(policies, test).plot()

# %%
# A threshold with a guarantee, on samples that were not used for anything else:

_, rest = split_record(validation, 0.5)
certify(Rising(), rest, "disagreement", level=0.1)

# %%
# To make it part of Offramp, list the class in ``POLICIES`` in ``src/offramp/policies/__init__.py``. ``offramp judge``
# then compares it with all others. A policy that learns also has a method ``_fit``
# (:doc:`Where to add what </design>`).

np.testing.assert_array_equal(Rising().signal(test)[:, 0], test.confidence()[:, 0])

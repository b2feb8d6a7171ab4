"""
Rejecting answers
=================

Some answers should not be given at all. δ decides at which exit an answer is given, and ρ below which estimate of its
accuracy it is rejected.
"""

import matplotlib.pyplot as plt

from offramp import choose_rejection, make_policy, risk_coverage
from offramp.records.example import example_records

validation, test = example_records()
policy = make_policy("pcee-ws").fit(validation)
curves = {
    "estimate of PCEE-WS": risk_coverage(policy, test, 0.9),
    "max softmax at the same exits": risk_coverage(policy, test, 0.9, by=make_policy("confidence")),
}

_, ax = plt.subplots(figsize=(7, 4))
for name, curve in curves.items():
    ax.step(100 * curve.coverage, 100 * curve.risk, where="post", label=f"{name} (AURC {100 * curve.aurc:.2f} %)")
ax.set(xlabel="Coverage (% of the images that are answered)", ylabel="Error of the given answers (%)", xlim=(60, 100))
ax.legend()

# %%
# The curve of PCEE-WS has steps, because many samples have the same estimate. Both thresholds can be chosen together,
# on validation data: the cheapest pair that answers 95 % of the images with an error of at most 2 %.

chosen = choose_rejection(policy, validation, risk=0.02, coverage=0.95)
chosen

# %%
# On test data, where a rejected image has the answer −1:

answers = policy.predict(test, chosen.threshold, reject_below=chosen.reject_below)
given = answers >= 0
print(f"{given.mean():.1%} are answered, with an error of {(answers != test.labels)[given].mean():.1%}")

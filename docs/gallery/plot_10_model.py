"""
Adding models: two classifiers become a cascade
===============================================

Models that you have need not be changed. What Offramp needs are their outputs on the same labelled samples, and what
they cost. Here they are two classifiers of scikit-learn.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from offramp import ExitRecord, cascade, make_policy
from offramp.records.splitting import split_record
from offramp.reports import FrontierDisplay

images, digits = load_digits(return_X_y=True)
images /= 16  # from 0 to 1
small = LogisticRegression(max_iter=1000).fit(images[:600, ::4], digits[:600])  # sees every fourth pixel
large = MLPClassifier((128,), solver="lbfgs", max_iter=500, random_state=0).fit(images[:600], digits[:600])


def record(model, inputs, cost):
    """Return the record of one model, which has one exit."""
    logits = model.predict_log_proba(inputs)[:, None]  # (N, 1, C)
    return ExitRecord(logits.clip(-50), digits[600:], [cost], metadata={"unit": "MAC"})


both = cascade([record(small, images[600:, ::4], 16 * 10), record(large, images[600:], 64 * 128 + 128 * 10)])
both

# %%
# Every policy runs on the cascade. Policies that learn are fitted on one half, and drawn on the other.

validation, test = split_record(both, 0.5)
policies = {name: make_policy(name).fit(validation) for name in ("confidence", "learned-deferral", "random")}
_, ax = plt.subplots(figsize=(7, 5))
FrontierDisplay.from_record(policies, test).plot(ax)

# %%
# Each sample that is answered early saves the cost of the large model, and each other sample pays for both.
#
# **Networks of torch** become models that stop by themselves with
# :class:`offramp.runtime.EarlyExit`: :doc:`Running models </runtime>` wraps a network that was not written for Offramp,
# and :doc:`Where to add what </design>` adds one that studies can train.

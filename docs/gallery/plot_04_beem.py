"""
BEEM against patience
=====================

Both ask whether neighbouring exits agree. Patience counts how many exits in a row predict the same class. BEEM adds up
their confidences, weighted by the depth of the exit (BEEM-C) or by its accuracy on validation data (BEEM-A), and starts
again when an exit disagrees.
"""

import matplotlib.pyplot as plt
import numpy as np

from offramp import make_policy
from offramp.records.example import example_records
from offramp.reports import FrontierDisplay

validation, test = example_records()
policies = {name: make_policy(name).fit(validation) for name in ("patience", "beem-c", "beem-a", "confidence")}

# %%
# The signals of one image whose exits disagree: the second exit changes the answer, so both start again there.

n = np.flatnonzero(test.prediction[:, 0] != test.prediction[:, 1])[0]
exits = np.arange(1, test.n_exits + 1)
_, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for ax, name in zip(axes, ("patience", "beem-c", "beem-a")):
    ax.bar(exits, policies[name].signal(test)[n])
    ax.set(title=name, xlabel="Exit", xticks=exits)
    ax.set_xticklabels([f"{i}\n“{digit}”" for i, digit in zip(exits, test.prediction[n])])
axes[0].set_ylabel("Signal")

# %%
# All operating points. Patience has as many as there are exits, because its signal is a whole number. What agreement
# alone leaves out is how sure the exits are.

FrontierDisplay.from_record(policies, test).plot()

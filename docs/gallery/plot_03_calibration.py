"""
Temperature scaling against maps of accuracy
============================================

There are two ways to make the confidence of an exit mean what it says. Temperature scaling divides the logits by one
number per exit. PCEE, PCEE-WS and isotonic regression learn a map from confidence to accuracy, which can take any shape
and needs no logits, but more validation samples.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from offramp import make_policy
from offramp.calibration import reliability_diagram
from offramp.records.example import example_records

validation, test = example_records()
policies = {
    "max softmax": make_policy("confidence"),
    "temperature": make_policy("confidence", temperature="per_exit"),
    "pcee": make_policy("pcee", bins=15),
    "pcee-ws": make_policy("pcee-ws"),
    "isotonic": make_policy("isotonic"),
}
signals = {name: policy.fit(validation).signal(test) for name, policy in policies.items()}  # (N, L) each

# %%
# What each of them makes of the confidence of the first exit. With ten classes, temperature scaling is no function of
# max softmax alone, and gives a cloud of points.

order = np.argsort(test.confidence()[:, 0])
confidence = test.confidence()[order, 0]  # (N,)
_, ax = plt.subplots(figsize=(7, 5))
ax.plot(confidence, signals["temperature"][order, 0], ".", markersize=3, color="0.6", label="temperature")
for name in ("pcee", "pcee-ws", "isotonic"):
    ax.step(confidence, signals[name][order, 0], where="post", label=name)
ax.plot([0, 1], [0, 1], "k--", linewidth=0.8, label="max softmax")
ax.set(xlabel="Confidence (max softmax)", ylabel="Estimated accuracy", xlim=(0, 1), ylim=(0, 1.02))
ax.legend()

# %%
# The expected calibration error of each exit on test data, in per cent.

errors = {
    name: [100 * reliability_diagram(signal[:, i], test.correct[:, i]).ece for i in range(test.n_exits)]
    for name, signal in signals.items()
}
pd.DataFrame(errors, index=[f"exit {i + 1}" for i in range(test.n_exits)]).T.round(1)

"""
Why confidence misleads
=======================

A threshold of 0.9 on max softmax is not an accuracy of 90 %. The exits of the network on the left answer more often
correctly than their confidence says, and a network that was trained on too few images, on the right, less often.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from offramp import ExitRecord, evaluate, make_policy
from offramp.records.example import example_records
from offramp.reports import ControlDisplay, ReliabilityDisplay

# %%
# The first system is a trained network with four exits. The second is a cascade of two networks that learned 200 images
# by heart, of which a tenth had wrong labels.

images, digits = load_digits(return_X_y=True)
images /= 16  # from 0 to 1
rng = np.random.default_rng(0)
learned = np.where(rng.random(200) < 0.1, rng.integers(0, 10, 200), digits[:200])
systems = [example_records()]
models = [MLPClassifier((width,), solver="lbfgs", max_iter=1000, random_state=0) for width in (12, 64)]
for model in models:
    model.fit(images[:200], learned)
logits = np.stack([model.predict_log_proba(images[200:]).clip(-50) for model in models], axis=1)  # (N, L, C)
overconfident = ExitRecord(logits, digits[200:], cost=[12 * 74, (12 + 64) * 74], metadata={"unit": "MAC"})
systems.append((overconfident[:800], overconfident[800:]))

figure, axes = plt.subplots(2, 2, figsize=(9, 8), layout="constrained")
for (validation, test), (above, below), name in zip(systems, axes.T, ("underconfident", "overconfident")):
    ReliabilityDisplay.from_record(test, exit=0, bins=10).plot(above)
    above.set_title(f"First exit, {name}")
    policies = {label: make_policy(label).fit(validation) for label in ("confidence", "pcee-ws")}
    ControlDisplay.from_record(policies, test, np.linspace(0, 1, 201)).plot(below)

# %%
# Below, accuracy is drawn against δ. With an underconfident network, thresholded confidence pays for an accuracy that
# nobody asked for. With an overconfident one it misses the target, and nothing but labels shows it.

for _, test in systems:
    print(evaluate(make_policy("confidence"), test, [0.9])[["accuracy", "cost"]].round(3))

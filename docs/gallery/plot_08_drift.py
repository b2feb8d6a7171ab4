"""
When the images change
======================

Two models are trained on images of handwritten digits, and then the images become noisier and noisier. A map from
confidence to accuracy that was fitted before is then wrong. An online policy learns from labels that come later, and an
alarm tells that something has changed, without any labels.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from offramp import ExitRecord, make_policy
from offramp.online import ConfidenceAlarm, Online, drift, run_stream
from offramp.reports import StreamDisplay

images, digits = load_digits(return_X_y=True)
images /= 16  # from 0 to 1
models = [LogisticRegression(max_iter=1000), MLPClassifier((64,), solver="lbfgs", max_iter=500, random_state=0)]
for model in models:
    model.fit(images[:600], digits[:600])


def record(first, last, severity=0.0, copies=1):
    """Return the record of the cascade on noisy copies of some images."""
    labels = np.tile(digits[first:last], copies)
    noise = np.random.default_rng(0).normal(size=(len(labels), 64))
    noisy = np.tile(images[first:last], (copies, 1)) + 0.2 * severity * noise
    logits = np.stack([model.predict_log_proba(noisy) for model in models], axis=1)  # (N, 2, 10)
    return ExitRecord(logits.clip(-50), labels, cost=[640, 640 + 64 * 74], metadata={"unit": "MAC"})


validation = record(600, 1200)
stream = drift({severity: record(1200, 1797, severity, copies=8) for severity in range(4)})

# %%
# The stream has 4,776 images. Labels come 50 images later. ``static`` learns nothing, ``window`` keeps the maps of PCEE
# up to date, and ``aci`` moves the threshold.

policy = make_policy("pcee").fit(validation)
tables = {}
for method in ("static", "window", "aci"):
    online = Online(policy, 0.95, validation, method, alarms={"shift": ConfidenceAlarm(validation)})
    tables[method] = run_stream(online, stream, delay=50, batch=20)

figure, axes = plt.subplots(3, 1, figsize=(8, 9), sharex=True, layout="constrained")
for ax, show in zip(axes, ("accuracy", "cost", "evidence")):
    StreamDisplay(tables, window=300, unit="MAC").plot(ax, show=show)

# %%
# Shades are the severities. The vertical line is where the alarm is raised. Nothing brings the accuracy of clean images
# back, but policies that learn pay for the second model where it helps.

print(online.alarms["shift"].raised_at)

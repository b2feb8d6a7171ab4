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
rng = np.random.default_rng(0)


def noisy(rows, severity):
    """Return images with more noise the higher the severity."""
    return images[rows] + 0.15 * severity * rng.normal(size=(len(rows), 64))


# %%
# The small model sees every fourth pixel. The large one was trained on noisy images, too.

train = np.repeat(np.arange(600), 4)
small = LogisticRegression(max_iter=1000).fit(images[train, ::4], digits[train])
large = MLPClassifier((64,), max_iter=200, tol=0.01, random_state=0).fit(
    noisy(train, rng.integers(0, 4, (2400, 1))), digits[train]
)


def record(rows, severity=0):
    """Return the record of the cascade on images with noise."""
    inputs = noisy(rows, severity)
    logits = np.stack([small.predict_log_proba(inputs[:, ::4]), large.predict_log_proba(inputs)], axis=1)  # (N, 2, C)
    return ExitRecord(logits.clip(-50), digits[rows], cost=[160, 160 + 64 * 74], metadata={"unit": "MAC"})


validation = record(np.arange(600, 1200))
streamed = np.tile(np.arange(1200, 1797), 8)
stream = drift({severity: record(streamed, severity) for severity in range(4)})

# %%
# The stream has 4,776 images. Labels come 50 images later. ``static`` learns nothing, and ``window`` keeps the maps
# of PCEE up to date.

policy = make_policy("pcee").fit(validation)
tables = {}
for method in ("static", "window"):
    online = Online(policy, 0.9, validation, method, alarms={"shift": ConfidenceAlarm(validation)})
    tables[method] = run_stream(online, stream, delay=50, batch=20)

figure, axes = plt.subplots(3, 1, figsize=(8, 9), sharex=True, layout="constrained")
for ax, show in zip(axes, ("accuracy", "cost", "evidence")):
    StreamDisplay(tables, window=300, unit="MAC").plot(ax, show=show)

# %%
# Shades are the severities, and the vertical line is where the alarm is raised. The static policy still believes the
# small model. The other one learns that it is no longer right, and pays for the large one.

print(f"alarm after {online.alarms['shift'].raised_at} images, of which the first {len(streamed) // 4} were clean")

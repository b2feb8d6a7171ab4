"""
A threshold with a guarantee
============================

A threshold that just reaches a target on validation data misses it on new data about every second time.
:func:`offramp.certify` chooses a threshold whose risk is at most a level with a given confidence. Here, the risk is the
loss of accuracy against the full cascade, which may be one point.

The cascade is that of :ref:`two ImageNet models <sphx_glr_examples_plot_05_imagenet.py>`.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from offramp import ExitRecord, certify, evaluate, make_policy

counts = pd.read_csv("imagenet_pair.csv")
images = counts.loc[counts.index.repeat(counts["images"])]  # one row per image
sure = np.column_stack([images["confidence"], np.ones(len(images))])  # (N, 2)
record = ExitRecord.from_scores(images[["small", "large"]], sure, [0.23, 2.24], metadata={"unit": "GMAC"})
policy = make_policy("confidence")
grid = evaluate(policy, record, np.linspace(0, 1, 101))
loss = record.correct[:, 1].mean() - grid["accuracy"].to_numpy()  # (T,): on all 50,000 images

# %%
# Thresholds are chosen on 100 random draws of 3,000 images, once without and once with a guarantee, and the loss is
# measured on all images.

rng = np.random.default_rng(0)
found = {"naive": [], "ltt": []}
for _ in range(100):
    drawn = record[rng.choice(len(record), 3000, replace=False)]
    for method, losses in found.items():
        threshold = certify(policy, drawn, "gap", level=0.01, confidence=0.9, method=method).threshold
        losses.append(np.interp(threshold, grid["threshold"], loss))

_, ax = plt.subplots(figsize=(7, 4))
for method, losses in found.items():
    missed = np.mean(np.array(losses) > 0.01)
    ax.hist(100 * np.array(losses), bins=np.linspace(-0.5, 2, 51), alpha=0.6, label=f"{method}: missed {missed:.0%}")
ax.axvline(1, color="k", linestyle="--", linewidth=0.8, label="level")
ax.set(xlabel="Loss of accuracy on all images (points)", ylabel="Draws of 3,000 images")
ax.legend()

# %%
# The promise was to miss the level in at most 10 % of the draws. Its price is a more careful threshold: the distance
# between the two histograms becomes smaller with more validation samples.

"""
A cascade of two ImageNet models
================================

MobileNetV3-Large answers first (0.23 G multiply-accumulates). EfficientNet-B3 (2.01 G) runs only if MobileNetV3 is not
sure enough.

The numbers are real. The file ``imagenet_pair.csv`` counts, for the 50,000 validation images of ImageNet, how often
MobileNetV3 had a confidence (max softmax, in steps of 0.01), whether it was right, and whether EfficientNet was. It
was made from published outputs of both models, which the study ``imagenet_outputs`` downloads (14 models). The
confidence of EfficientNet is left out, because the last stage of a cascade answers in any case.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from offramp import ExitRecord, evaluate, make_policy
from offramp.records.splitting import split_record
from offramp.reports import FrontierDisplay

counts = pd.read_csv("imagenet_pair.csv")
images = counts.loc[counts.index.repeat(counts["images"])]  # one row per image
record = ExitRecord.from_scores(
    quality=images[["small", "large"]],  # (N, 2): 1 if the answer is right
    confidence=np.column_stack([images["confidence"], np.ones(len(images))]),  # (N, 2)
    cost=[0.23, 0.23 + 2.01],  # both models are paid if both run
    metadata={"unit": "GMAC", "metric": "accuracy of the answer"},
)
validation, test = split_record(record, 0.5)

# %%
# The cascade is compared with random deferral, and with the single models of the same study.

policies = {name: make_policy(name).fit(validation) for name in ("confidence", "pcee-ws", "random")}
_, ax = plt.subplots(figsize=(7, 5))
FrontierDisplay.from_record(policies, test).plot(ax)
single = pd.read_csv("../../reports/reference/imagenet_outputs/tables/models.csv")
single = single[single["cost"] < 2.4e9]
ax.plot(single["cost"] / 1e9, 100 * single["accuracy"], "ks", fillstyle="none")
for _, model in single.iterrows():
    place = (model["cost"] / 1e9, 100 * model["accuracy"])
    ax.annotate(model["model"], place, (6, -12), textcoords="offset points")
ax.set_xlim(0.2, 3.5)

# %%
# The cheapest threshold that loses nothing on the validation half, measured on the other half. ``exit_1`` is the share
# of images that EfficientNet never sees.

threshold = policies["pcee-ws"].choose_threshold(validation, accuracy=validation.correct[:, 1].mean())
evaluate(policies["pcee-ws"], test, [threshold, np.inf]).round(4)

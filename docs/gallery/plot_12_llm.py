"""
A cascade of language models from a CSV file
============================================

A question goes to a small language model first, and to a large one if the small one is not sure. All that is needed is
a table with one row per question: whether each model was right, and how sure the small one was, for example the mean
probability of its tokens. The numbers in this example are drawn at random.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from offramp import evaluate, make_policy
from offramp.records.importing import import_outputs
from offramp.records.splitting import split_record
from offramp.reports import FrontierDisplay

rng = np.random.default_rng(0)
ease = rng.normal(size=2000)  # (N,)
table = pd.DataFrame(
    {
        "id": [f"question {n}" for n in range(2000)],
        "small_right": rng.normal(size=2000) < ease + 0.3,
        "large_right": rng.normal(size=2000) < ease + 1.3,
        "small_sure": 1 / (1 + np.exp(-ease - rng.normal(size=2000))),
        "large_sure": 1.0,  # the last model answers in any case
        "words": rng.integers(5, 60, 2000),
    }
)
questions = Path(tempfile.mkdtemp(), "questions.csv")
table.to_csv(questions, index=False)
table.head(3).round(3)

# %%
# ``offramp import questions.csv … --quality small_right --quality large_right`` does the same on the command line. An
# answer has a quality, from 0 to 1, in place of a label. The costs are what the calls cost, in cents: whoever asks the
# large model has paid for the small one, too.

record = import_outputs(
    questions,
    columns={
        "quality": ["small_right", "large_right"],
        "max_softmax": ["small_sure", "large_sure"],
        "features": ["words"],
    },
    cost=[0.02, 0.02 + 0.6],
    metadata={"unit": "cent", "metric": "share of right answers"},
)
validation, test = split_record(record, 0.5)

# %%
# The raw number of a language model is no probability of being right. Isotonic regression makes it one, and the
# threshold then is a share of right answers.

policies = {name: make_policy(name).fit(validation) for name in ("confidence", "isotonic", "random")}
_, ax = plt.subplots(figsize=(7, 5))
FrontierDisplay.from_record(policies, test).plot(ax)

# %%
# Half of the calls of the large model can be saved:

evaluate(policies["isotonic"], test, [0.6, 0.7, 0.8, np.inf]).round(3)

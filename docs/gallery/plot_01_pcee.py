"""
PCEE in ten lines
=================

PCEE replaces the confidence of an exit by the accuracy of validation samples with about this confidence. A sample
leaves at the first exit at which this accuracy is at least δ, so that δ can be read as the accuracy to reach.

The records are those of a small network with four exits on images of handwritten digits
(:func:`offramp.records.example.example_records`).
"""

from offramp import evaluate, make_policy
from offramp.records.example import example_records
from offramp.reports import FrontierDisplay

validation, test = example_records()
policy = make_policy("pcee-ws").fit(validation)
evaluate(policy, test, [0.8, 0.9, 0.95, 1.0]).round(3)

# %%
# All operating points, compared with a threshold on max softmax and with random exits. No grid of thresholds is needed:
# :func:`offramp.frontier` finds every point that a threshold can reach.

rivals = {name: make_policy(name) for name in ("confidence", "random")}
FrontierDisplay.from_record({"pcee-ws": policy, **rivals}, test).plot()

# %%
# The two curves of PCEE-WS and max softmax are close to each other. PCEE does not order the samples of one exit
# differently; what it buys is a threshold that has a meaning (see :ref:`why confidence misleads
# <sphx_glr_examples_plot_02_confidence.py>`).

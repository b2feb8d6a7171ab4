"""Example of an early exit that is confident and wrong."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from offramp.records import ExitRecord
from offramp.reports.figures.style import BLACK, BLUE, ONE_COLUMN, VERMILLION, entry, legend_below, new_figure
from offramp.reports.labels import system_name
from offramp.reports.loading import only_file

_THRESHOLD = 0.75  # as in the paper


def draw(files: Sequence[Path]) -> Figure:
    """An early exit that is confident and wrong.

    Confidence (max softmax) of every layer on one test sample, compared with the accuracy of the layer on all test
    samples. A policy that thresholds the confidence at 0.75 stops at the first layer above the line, whether it is
    right or wrong. The sample is chosen among those that the last layer predicts correctly: it is the sample for which
    an earlier layer is wrong with the highest confidence, if this confidence is at least 0.75. If there is no such
    sample, the title says so.

    Parameters
    ----------
    files : sequence of one path
        A test record.
    """
    record = ExitRecord.load(only_file(files, "overconfidence draws"))
    record.needed_labels("overconfidence")
    sample, reason = choose_sample(record)
    confidence, correct = record.confidence()[sample], record.correct[sample]  # (L,) each
    place = np.arange(1, record.n_exits + 1)
    figure, (ax,) = new_figure(ONE_COLUMN, 2.7)
    for right, color, hatch, symbol in ((False, VERMILLION, "////", "✗"), (True, BLUE, None, "✓")):
        mine = correct == right  # (L,)
        ax.bar(place[mine], confidence[mine], 0.7, color=color, hatch=hatch, edgecolor="white", linewidth=0)
        for x in place[mine]:
            ax.text(x, 1.02, symbol, ha="center", va="bottom", color=color, fontsize=9)
    ax.axhline(_THRESHOLD, color=BLACK, linewidth=0.8, linestyle="--")
    accuracy = record.correct.mean(0)  # (L,)
    diamond = {"marker": "D", "markerfacecolor": "white", "markeredgecolor": BLACK, "markeredgewidth": 0.8}
    ax.plot(place, accuracy, linestyle="", **diamond)
    ax.set_xticks(place, [f"{i}\n{a * 100:.0f}%" for i, a in zip(place, accuracy)])
    ax.set(xlabel="Layer (exit), and its test accuracy", ylabel="Confidence (max softmax)", ylim=(0, 1.12))
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.grid(False, axis="x")
    system = system_name(record.metadata.get("system", "system"))
    ax.set_title(f"{system}, test sample {record.index[sample]}:\n{reason}")
    handles = [
        Patch(facecolor=VERMILLION, hatch="////", edgecolor="white", label="✗ wrong"),
        Patch(color=BLUE, label="✓ right"),
        entry("layer's test accuracy", linestyle="", **diamond),
        entry(f"threshold {_THRESHOLD}", linewidth=0.8, linestyle="--"),
    ]
    legend_below(figure, handles, 2)
    return figure


def choose_sample(record: ExitRecord) -> tuple[int, str]:
    """Return the sample to show, and the reason for the choice.

    The sample with the most confident mistake of an earlier layer is chosen, among mistakes with a confidence of at
    least 0.75 that the last layer corrects. If there are none, it is chosen among all mistakes of earlier layers. If
    there are no mistakes, the sample with the least confident early layer is chosen.
    """
    if record.n_exits == 1:
        raise ValueError("overconfidence: the record has one exit; expected an early one and a last")
    confidence, wrong = record.confidence()[:, :-1], ~record.correct[:, :-1]  # (N, L − 1) each
    misled = wrong & record.correct[:, -1:] & (confidence >= _THRESHOLD)  # (N, L − 1)
    if misled.any():
        sample, layer = _argmax(np.where(misled, confidence, -1))
        return sample, f"layer {layer + 1} sure and wrong, the last one right"
    if wrong.any():
        sample, layer = _argmax(np.where(wrong, confidence, -1))
        return sample, f"no layer misleads at {_THRESHOLD};\nshown: the surest early mistake (layer {layer + 1})"
    sample, layer = _argmax(-confidence)
    return sample, f"no early mistakes;\nshown: the least sure early layer ({layer + 1})"


def _argmax(values: np.ndarray) -> tuple[int, int]:
    sample, layer = np.unravel_index(values.argmax(), values.shape)
    return int(sample), int(layer)

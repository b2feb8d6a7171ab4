"""Layers that the oracle uses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from offramp.policies import make_policy
from offramp.records import ExitRecord
from offramp.reports.figures.style import BLUE, ONE_COLUMN, PALE, legend_below, new_figure
from offramp.reports.labels import system_name
from offramp.reports.loading import only_file

_SAMPLES = 64


def draw(files: Sequence[Path], seed: int = 0) -> Figure:
    """Layers that the oracle uses.

    Layers used on 64 random test samples, sorted by the number of layers used. Dark layers are used, and light layers
    are saved. The oracle leaves at the first exit that makes the same prediction as the last exit. This cannot be known
    in advance.

    Parameters
    ----------
    files : sequence of one path
        A test record.
    seed : int
        Seed for the choice of samples.
    """
    record = ExitRecord.load(only_file(files, "oracle-heatmap draws"))
    used = 1 + make_policy("oracle").exits(record, 1.0)  # (N,), exits passed
    size = min(_SAMPLES, record.n_samples)
    drawn = np.sort(used[np.random.default_rng(seed).choice(record.n_samples, size, replace=False)])  # (64,)
    dark = np.arange(record.n_exits)[:, None] < drawn  # (L, 64)
    figure, (ax,) = new_figure(ONE_COLUMN, 0.9 + 0.16 * record.n_exits)
    cells = {"cmap": [PALE, BLUE], "vmin": 0, "vmax": 1, "cbar": False, "linewidths": 0.3, "linecolor": "white"}
    sns.heatmap(dark, xticklabels=False, yticklabels=np.arange(record.n_exits) + 1, ax=ax, **cells)
    ax.invert_yaxis()
    ax.tick_params(length=0, rotation=0)
    ax.set(xlabel=f"{size} random test samples", ylabel="Layer (exit)")
    system = system_name(record.metadata.get("system", "system"))
    ax.set_title(f"{system}: {drawn.mean():.1f} of {record.n_exits} used on average ({used.mean():.1f} on all samples)")
    legend_below(figure, [Patch(color=BLUE, label="used"), Patch(color=PALE, label="saved")], 2)
    return figure

"""Test accuracy against cost: single models, and the cascades chosen to beat them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.transforms import Bbox
from scipy.optimize import isotonic_regression

from offramp.cascades.fronts import pareto
from offramp.reports.figures.style import BLACK, GREY, KIND_STYLES, TWO_COLUMNS, legend_below, new_figure
from offramp.reports.labels import system_name, unit
from offramp.reports.loading import of_base, read_tables

_INTERPOLATED = (0, (2, 1))
# Where a model's name may stand, in points from its mark, and how it is aligned; the first that is free
_PLACES = [
    (4, -4, "left", "top"),
    (-4, -4, "right", "top"),
    (4, -12, "left", "top"),
    (4, 0, "left", "center"),
    (-4, 4, "right", "bottom"),
    (0, 5, "center", "bottom"),
]


def draw(files: Sequence[Path]) -> Figure:
    """Single models, and the cascades chosen to beat them.

    Test accuracy against average cost of single models and of the cascades that were chosen on validation data, for
    every accuracy aimed at the cheapest: pairs (among single models and pairs), triples (among all three), and two
    references, the best straight line between a small model and both models of a pair (random deferral), and
    deferral in hindsight, which sends on just what the large model has right and the small one wrong (oracle). Of what
    was chosen, noise makes test accuracy fall here and there as cost rises; lines are made ascending by isotonic
    regression, as for the reductions. Filled marks are models on the validation data's front of single models; on the
    step front one pays for the next of them, on the log-interpolated one the logarithm of the cost is linear in
    accuracy between neighbours. The first variant and the first seed are shown in full, other seeds' models and
    cascades by pale dots and lines.

    Parameters
    ----------
    files : sequence of paths
        The models and the choices of `offramp search`.
    """
    models, choices = read_tables(files, "models", "choices")
    choices = of_base(choices)
    factor, prefix = unit(models["cost"])
    figure, (ax,) = new_figure(TWO_COLUMNS, 4.2)
    first, *others = models["seed"].unique()
    for seed in others:
        its = models[models["seed"] == seed]
        ax.plot(its["cost"] / factor, 100 * its["accuracy"], ".", color=GREY, markersize=3, alpha=0.5, zorder=2)
        _cascades(ax, choices[choices["seed"] == seed], factor, alpha=0.25, linewidth=0.7)
    _cascades(ax, choices[choices["seed"] == first], factor)
    shown = models[models["seed"] == first]
    _singles(ax, shown[shown["front"]], factor, "full")
    _singles(ax, shown[~shown["front"]], factor, "none")
    ax.set(xscale="log", xlabel=f"Average cost ({prefix}MACs)", ylabel="Test accuracy (%)")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.08, y=0.06)
    handles = [
        Line2D([], [], color=style.color, linestyle=style.linestyle, label=style.name)
        for kind, style in KIND_STYLES.items()
        if kind in set(choices["kind"])
    ]
    handles += [
        Line2D([], [], color=BLACK, linewidth=1, label="single models: step front"),
        Line2D([], [], color=BLACK, linewidth=0.8, linestyle=_INTERPOLATED, label="log-interpolated front"),
        Line2D([], [], color=BLACK, marker="s", linestyle="", label="on the front"),
        Line2D([], [], color=BLACK, marker="s", linestyle="", fillstyle="none", label="not on it"),
    ]
    legend_below(figure, handles, 4)
    _names(ax, shown, factor)
    return figure


def _ascending(points: pd.DataFrame, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """The front of what was chosen, its accuracy made ascending: cost and accuracy (%), as the reductions have it."""
    points = points.sort_values("target")
    cost, accuracy = points["cost"].to_numpy(), isotonic_regression(points["accuracy"]).x  # (T,) each
    members = pareto(cost, accuracy)
    return cost[members] / factor, 100 * accuracy[members]


def _cascades(ax: Axes, choices: pd.DataFrame, factor: float, **look) -> None:
    for kind, style in KIND_STYLES.items():
        chosen = choices[choices["kind"] == kind]
        if len(chosen):
            line = {"color": style.color, "linestyle": style.linestyle, **look}
            ax.plot(*_ascending(chosen, factor), drawstyle="steps-post", zorder=3, **line)


def _singles(ax: Axes, models: pd.DataFrame, factor: float, fill: str) -> None:
    """The marks of some models, and the two fronts where they are those of the front."""
    models = models.sort_values("cost")
    cost = models["cost"].to_numpy() / factor
    if fill == "full":
        accuracy = 100 * isotonic_regression(models["accuracy"]).x
        ax.plot(cost, accuracy, color=BLACK, linewidth=1, drawstyle="steps-post", zorder=2)
        ax.plot(cost, accuracy, color=BLACK, linewidth=0.8, linestyle=_INTERPOLATED, zorder=2)
    ax.plot(cost, 100 * models["accuracy"], "s", color=BLACK, markersize=4, fillstyle=fill, zorder=4)


def _names(ax: Axes, models: pd.DataFrame, factor: float) -> None:
    """A name beside each mark, where it hits no other name nor mark."""
    ax.figure.draw_without_rendering()  # places the axes
    halo = [withStroke(linewidth=1.2, foreground="white")]
    x, y = models["cost"].to_numpy() / factor, 100 * models["accuracy"].to_numpy()
    points = ax.transData.transform(np.stack([x, y], axis=1))  # (M, 2) pixels
    taken = [Bbox([point - 3, point + 3]) for point in points]
    for k, name in enumerate(models["model"].map(system_name)):
        for dx, dy, horizontal, vertical in _PLACES:
            place = {"xytext": (dx, dy), "textcoords": "offset points", "ha": horizontal, "va": vertical}
            text = ax.annotate(name, (x[k], y[k]), **place, fontsize=7, path_effects=halo)
            box = text.get_window_extent()
            if Bbox.intersection(box, ax.bbox) is not None and not box.count_overlaps(taken):
                break
            if dy != _PLACES[-1][1]:
                text.remove()
        taken.append(box)

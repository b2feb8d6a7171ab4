"""Test accuracy against cost, for single models and chosen cascades."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from offramp.cascades.fronts import ascending
from offramp.reports.figures import style
from offramp.reports.labels import cost_label, system_name
from offramp.reports.loading import of_base, read_tables, unit_of

_STEP = {"linewidth": 1.0, "drawstyle": "steps-post"}
_INTERPOLATED = {"linewidth": 0.8, "linestyle": (0, (2, 1))}
# Possible positions of the name of a model: offset from its mark in points, and alignment
_PLACES = [
    (4, -4, "left", "top"),
    (-4, -4, "right", "top"),
    (4, -12, "left", "top"),
    (4, 0, "left", "center"),
    (-6, 0, "right", "center"),
    (-4, 4, "right", "bottom"),
    (4, 4, "left", "bottom"),
    (0, 5, "center", "bottom"),
    (0, -5, "center", "top"),
]
_ALIGNED = {"left": 0.0, "center": 0.5, "right": 1.0, "bottom": 0.0, "top": 1.0}  # share of the size before the anchor
# Positions further away in points, nearest first, with a line to the mark, for names that have no room beside it
_FAR = sorted(
    (
        (x, y, "left" if x > 0 else "right", "center")
        for y in range(-100, 101, 9)
        for x in (-96, -72, -48, -24, -8, 8, 24, 48, 72, 96)
    ),
    key=lambda place: np.hypot(place[0], place[1]),
)
_LEADER = {"arrowstyle": "-", "linewidth": 0.4, "color": style.GREY, "shrinkA": 0, "shrinkB": 3}


def draw(files: Sequence[Path]) -> Figure:
    """Single models, and the cascades chosen to beat them.

    Test accuracy against average cost, for single models and for cascades. On validation data, the cheapest cascade was
    chosen for each target accuracy: pairs (among single models and pairs), triples (among single models, pairs and
    triples), and two references. Random deferral is the best straight line between a small model and both models of a
    pair. The oracle defers in hindsight exactly those samples that the large model predicts correctly and the small
    model does not. Because of noise, the test accuracy of the chosen cascades sometimes decreases with cost. Lines are
    therefore made ascending by isotonic regression, as for the reductions. Filled marks are models on the front of
    single models on validation data. The step front gives the cost of the next model on the front. On the
    log-interpolated front, the logarithm of the cost is linear in accuracy between neighbours. The first variant is
    shown. Models and cascades of the first seed are shown in full, and those of other seeds as pale dots and lines.

    Parameters
    ----------
    files : sequence of paths
        The tables of models and of choices that `offramp search` wrote.
    """
    models, choices = read_tables(files, "models", "choices")
    choices = of_base(choices)
    styles = {kind: look for kind, look in style.KIND_STYLES.items() if kind in set(choices["kind"])}
    factor, cost = cost_label("Average cost", models["cost"], unit_of(models))
    models, choices = (table.assign(cost=table["cost"] / factor) for table in (models, choices))
    cascades = choices[choices["kind"].isin(styles)].sort_values("target").groupby(["seed", "kind"])
    curves = pd.concat([_ascending(its).assign(seed=seed, kind=kind) for (seed, kind), its in cascades])
    figure, (ax,) = style.new_figure(style.TWO_COLUMNS, 4.2)
    first = models["seed"].iloc[0]
    others, shown = models[models["seed"] != first], models[models["seed"] == first]
    if len(others):
        ax.plot(others["cost"], 100 * others["accuracy"], ".", color=style.GREY, markersize=3, alpha=0.5, zorder=2)
    steps = {"markers": False, "units": "seed", "estimator": None, "drawstyle": "steps-post", "sort": False}
    for its, look in ((curves["seed"] != first, {"alpha": 0.25, "linewidth": 0.7}), (curves["seed"] == first, {})):
        style.draw_lines(ax, curves[its], "cost", "accuracy", styles, "kind", zorder=3, **steps, **look)
    front = _ascending(shown[shown["front"]].sort_values("cost"))
    for look in (_STEP, _INTERPOLATED):
        ax.plot(front["cost"], front["accuracy"], color=style.BLACK, zorder=2, **look)
    fills = {"full": shown[shown["front"]], "none": shown[~shown["front"]]}
    for fill, its in fills.items():
        ax.plot(its["cost"], 100 * its["accuracy"], "s", color=style.BLACK, fillstyle=fill, zorder=4)
    style.log_scale(ax.xaxis)
    ax.set(xlabel=cost, ylabel="Test accuracy (%)")
    ax.margins(x=0.08, y=0.06)
    handles = style.entries(styles, marker=None)
    handles += [
        style.entry("single models: step front", linewidth=1),
        style.entry("log-interpolated front", **_INTERPOLATED),
    ]
    for fill, label in zip(fills, ("on the front", "not on it")):
        handles.append(style.entry(label, marker="s", linestyle="", fillstyle=fill))
    style.legend_below(figure, handles, 4)
    _names(ax, shown)
    return figure


def _ascending(points: pd.DataFrame) -> pd.DataFrame:
    cost, accuracy = ascending(points["cost"], points["accuracy"])
    return pd.DataFrame({"cost": cost, "accuracy": 100 * accuracy})


def _names(ax: Axes, models: pd.DataFrame) -> None:
    """Write a name next to each mark, inside the axes.

    The position is chosen so that the name overlaps no other name and no mark of a model, is nearest to its own mark,
    and overlaps as few lines and dots as possible. If every position beside the mark overlaps something, the first one
    further away that does not is chosen.
    """
    ax.figure.draw_without_rendering()  # sets the positions of the axes
    halo = [withStroke(linewidth=1.2, foreground="white")]
    lines = [
        line.get_transform().transform_path(line.get_path()) for line in ax.lines if line.get_linestyle() != "None"
    ]
    dots = [line.get_transform().transform(line.get_xydata()) for line in ax.lines if line.get_linestyle() == "None"]
    places = np.stack([models["cost"], 100 * models["accuracy"]], axis=1)  # (M, 2)
    marks = ax.transData.transform(places)  # (M, 2), pixels
    taken = [Bbox([mark - 3, mark + 3]) for mark in marks]
    points = ax.figure.dpi / 72  # pixels
    for own, (at, name) in enumerate(zip(places, models["model"].map(system_name))):
        text = ax.annotate(name, at, xytext=(0, 0), textcoords="offset points", fontsize=7, path_effects=halo)
        size = text.get_window_extent().size
        text.remove()

        def fits(place: tuple, own=own, size=size) -> tuple[int, int, Bbox]:
            x, y, horizontal, vertical = place
            corner = marks[own] + points * np.array([x, y]) - size * (_ALIGNED[horizontal], _ALIGNED[vertical])
            box = Bbox([corner, corner + size])
            outside = not (ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max))
            hit = sum(path.intersects_bbox(box, filled=False) for path in lines) + box.count_contains(np.vstack(dots))
            apart = np.linalg.norm(marks - np.clip(marks, box.min, box.max), axis=1)  # (M,)
            astray = apart.argmin() != own  # seems to belong to another mark
            return 2 * outside + astray + box.count_overlaps(taken), hit, box

        # Of several equally good positions, the first
        place = min(_PLACES, key=lambda place: fits(place)[:2])
        far = fits(place)[0] > 0
        if far:
            place = min((place, *_FAR), key=lambda place: fits(place)[0])
        x, y, horizontal, vertical = place
        look = {"fontsize": 7, "path_effects": halo, "arrowprops": _LEADER if far else None}
        ax.annotate(name, at, xytext=(x, y), textcoords="offset points", ha=horizontal, va=vertical, **look)
        taken.append(fits(place)[2])

"""Displays of a record, similar to those of scikit-learn: `from_record` computes the numbers, and `plot` draws them.

matplotlib and seaborn are imported only when something is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from offramp.calibration import ReliabilityDiagram, reliability_diagram
from offramp.evaluation import evaluate, frontier
from offramp.policies import Policy
from offramp.records import ExitRecord
from offramp.records.metrics import quality_name
from offramp.reports.labels import cost_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class _Display:
    """Base class of displays, which stores where a display was drawn.

    Attributes
    ----------
    ax_, figure_ : Axes and Figure
        Axes and figure of the last drawing.
    handles_ : list of artists
        Entries of the legend.
    """

    quality: str | None = None  # name of the mean quality, if answers are not classes

    def _start(self, ax: "Axes | None") -> "Axes":
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots()
        self.ax_, self.figure_ = ax, ax.figure
        return ax

    def _finish(self, handles: list, legend: bool) -> None:
        from offramp.reports.figures.style import write_about

        self.handles_ = handles
        if legend:
            self.ax_.legend(handles=handles)
        write_about(self.ax_, self.quality)


class FrontierDisplay(_Display):
    """Accuracy of policies against the mean cost per sample.

    Parameters
    ----------
    points : DataFrame
        Operating points, with the columns policy (label), accuracy, cost and, if there are several seeds, seed. With
        several seeds, lines are means at equal cost, over the range of costs that every seed reaches, and bands are
        ± one standard deviation over seeds.
    full : DataFrame
        Accuracy and cost of the full model, with one row per seed.
    unit : str or None
        Unit of the costs, for example MAC.
    labels : sequence of str, optional
        Labels to list in the legend. By default the policies in `points`.

    Attributes
    ----------
    ax_, figure_ : Axes and Figure
        Axes and figure of the last drawing.
    handles_ : list of artists
        Entries of the legend.

    Examples
    --------
    >>> import numpy as np
    >>> from offramp import ExitRecord, make_policy
    >>> from offramp.reports import FrontierDisplay
    >>> rng = np.random.default_rng(0)
    >>> record = ExitRecord(rng.normal(size=(50, 3, 4)), rng.integers(0, 4, 50), cost=[1, 2, 3])
    >>> policies = {name: make_policy(name).fit(record) for name in ("confidence", "pcee")}
    >>> display = FrontierDisplay.from_record(policies, record).plot()
    >>> display.ax_.get_ylabel()
    'Accuracy (%)'
    """

    def __init__(
        self,
        points: "pd.DataFrame",
        full: "pd.DataFrame",
        unit: str | None = None,
        labels: Sequence[str] | None = None,
    ):
        self.points, self.full, self.unit = points, full, unit
        self.labels = list(points["policy"].unique() if labels is None else labels)

    @classmethod
    def from_record(cls, policies: Policy | Mapping[str, Policy], record: ExitRecord) -> "FrontierDisplay":
        """Compute the exact frontier of each policy, and the accuracy of the last exit on all samples.

        Parameters
        ----------
        policies : Policy, or dict of str to Policy
            Fitted policies by label. A single policy is labelled with its name.
        record : ExitRecord
        """
        import pandas as pd

        points = [frontier(policy, record).assign(policy=label) for label, policy in _labelled(policies).items()]
        full = pd.DataFrame({"cost": record.cost[-1:], "accuracy": record.correct[:, -1].mean()})
        display = cls(pd.concat(points, ignore_index=True), full, record.metadata.get("unit"))
        display.quality = quality_name(record)
        return display

    def plot(self, ax: "Axes | None" = None, *, error: bool = False, legend: bool = True) -> "FrontierDisplay":
        """Draw accuracy in % as lines, and the full model as triangles with a line at their mean.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw on. By default those of a new pyplot figure.
        error : bool
            Whether to show the error, 1 − accuracy, instead of the accuracy.
        legend : bool
            Whether to draw the legend.

        Returns
        -------
        self
        """
        import pandas as pd

        from offramp.comparison.matched import at_equal
        from offramp.reports.figures import style

        ax = self._start(ax)
        factor, xlabel = cost_label("Average cost", self.full["cost"], self.unit)
        share = 1 - self.points["accuracy"] if error else self.points["accuracy"]
        points = self.points.assign(value=100 * share, cost=self.points["cost"] / factor)
        if "seed" not in points:
            points["seed"] = 0
        styles, lines = style.policy_styles(self.labels), []
        handles = {label: style.entries({label: look})[0] for label, look in styles.items()}
        for label, its in points.groupby("policy"):
            line = at_equal(its, "cost", "value").assign(policy=label)
            if line["cost"].nunique() > 1:
                lines.append(line)
                continue
            handles[label].set_linestyle("")
            cost = its.groupby("seed")["cost"].mean()
            spread = {"yerr": line["value"].std(), "xerr": cost.std()} if len(cost) > 1 else {}
            marks = {"fmt": styles[label].marker, "color": styles[label].color, "markersize": 6, "elinewidth": 0.8}
            ax.errorbar(line["cost"].iloc[0], line["value"].mean(), **spread, **marks, zorder=5)
        if lines:
            style.draw_lines(ax, pd.concat(lines), "cost", "value", styles, markevery=0.2)
        full = mark_full_models(ax, self.full, "full model", "^", ":", factor, error)
        style.log_scale(ax.xaxis)
        ax.set_xlabel(xlabel)
        ax.set_ylabel("Error (%)" if error else "Accuracy (%)")
        self._finish([*handles.values(), full], legend)
        return self


def mark_full_models(
    ax: "Axes", full: "pd.DataFrame", name: str, marker: str, line: str, factor: float = 1.0, error: bool = False
):
    """Draw hollow marks for the seeds of a full model, and a line at their mean accuracy or error.

    Returns
    -------
    Line2D
        The entry for the legend.
    """
    from offramp.reports.figures import style

    hollow = {"marker": marker, "markerfacecolor": "white", "markeredgecolor": style.BLACK, "markeredgewidth": 0.7}
    value = 100 * (1 - full["accuracy"] if error else full["accuracy"])
    ax.axhline(value.mean(), color=style.GREY, linewidth=0.8, linestyle=line, zorder=1)
    ax.plot(full["cost"] / factor, value, linestyle="", zorder=4, **hollow)
    return style.entry(name, style.GREY, linewidth=0.8, linestyle=line, **hollow)


class ReliabilityDisplay(_Display):
    """Accuracy of samples with similar confidence.

    Parameters
    ----------
    diagram : ReliabilityDiagram
    name : str
        Text of the title before the expected calibration error (ECE).

    Attributes
    ----------
    ax_, figure_ : Axes and Figure
        Axes and figure of the last drawing.
    handles_ : list of artists
        Entries of the legend.

    Examples
    --------
    >>> import numpy as np
    >>> from offramp import ExitRecord
    >>> from offramp.reports import ReliabilityDisplay
    >>> rng = np.random.default_rng(0)
    >>> record = ExitRecord(rng.normal(size=(50, 3, 4)), rng.integers(0, 4, 50), cost=[1, 2, 3])
    >>> display = ReliabilityDisplay.from_record(record, exit=2, bins=10).plot()
    >>> display.ax_.get_title()[:16]
    'Exit 3 of 3: ECE'
    """

    def __init__(self, diagram: ReliabilityDiagram, name: str = "Reliability"):
        self.diagram, self.name = diagram, name

    @classmethod
    def from_record(cls, record: ExitRecord, exit: int = 0, bins: int = 15) -> "ReliabilityDisplay":
        """Compute the reliability diagram of one exit for max softmax, in bins of equal width.

        Parameters
        ----------
        record : ExitRecord
        exit : int
            Index of an exit, counted from 0 as in `record.correct[:, exit]`. The title counts from 1, as figures do.
        bins : int

        Raises
        ------
        ValueError
            If the record has no such exit.
        """
        if not 0 <= exit < record.n_exits:
            raise ValueError(f"exit is {exit}; expected 0 to {record.n_exits - 1}, for exits are counted from 0 here")
        diagram = reliability_diagram(record.confidence()[:, exit], record.correct[:, exit], bins)
        display = cls(diagram, f"Exit {exit + 1} of {record.n_exits}")
        display.quality = quality_name(record)
        return display

    @classmethod
    def from_bins(cls, bins: "pd.DataFrame", exit: int = 0) -> "ReliabilityDisplay":
        """Compute the reliability diagram of one exit from the pooled bins of several seeds.

        Parameters
        ----------
        bins : DataFrame
            Tables that `offramp calibrate --reliability` wrote, for all seeds of one system.
        exit : int
            Index of the exit, counted from 0. The table counts from 1.

        Raises
        ------
        ValueError
            If the seeds have different bins.
        """
        last, bins = bins["exit"].max(), bins[bins["exit"] == exit + 1]
        bins = bins.assign(confident=bins["count"] * bins["mean_confidence"], right=bins["count"] * bins["accuracy"])
        groups = bins.groupby(["lower", "upper"])
        if (groups.size() != bins["seed"].nunique()).any():
            raise ValueError("reliability: the files have other bins; expected the same for every seed")
        total = groups[["count", "confident", "right"]].sum().reset_index()
        edges = np.append(total["lower"], total["upper"].iloc[-1])
        count, confident, right = (total[name].to_numpy() for name in ("count", "confident", "right"))  # (M,) each
        with np.errstate(invalid="ignore"):
            diagram = ReliabilityDiagram(edges, count, confident / count, right / count)
        return cls(diagram, f"Exit {exit + 1} of {last}")

    def plot(self, ax: "Axes | None" = None, *, legend: bool = True) -> "ReliabilityDisplay":
        """Draw the accuracy of each bin, and the gap to its mean confidence as a hatched area.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw on. By default those of a new pyplot figure.
        legend : bool
            Whether to draw the legend.

        Returns
        -------
        self
        """
        from matplotlib.patches import Patch

        from offramp.reports.figures.style import BLACK, BLUE, VERMILLION, entry

        ax = self._start(ax)
        looks = {
            "overconfidence": {"facecolor": "white", "edgecolor": VERMILLION, "hatch": "/////"},
            "underconfidence": {"facecolor": BLUE, "edgecolor": "white", "hatch": "\\\\\\\\\\"},
        }
        diagram, full = self.diagram, self.diagram.count > 0  # (M,)
        left, width = diagram.edges[:-1][full], np.diff(diagram.edges)[full]
        accuracy, gap = diagram.accuracy[full], (diagram.mean_confidence - diagram.accuracy)[full]
        ax.bar(left, accuracy, width, align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
        for those, look in zip((gap > 0, gap < 0), looks.values()):
            ax.bar(left[those], gap[those], width[those], accuracy[those], align="edge", linewidth=0.6, **look)
        ax.plot([0, 1], [0, 1], color=BLACK, linewidth=0.8, linestyle="--")
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="Confidence (max softmax)", ylabel="Accuracy")
        ax.set_title(f"{self.name}: ECE {100 * diagram.ece:.1f} %")
        handles = [Patch(facecolor=BLUE, label="accuracy")]
        handles += [Patch(**look, linewidth=0.6, label=name) for name, look in looks.items()]
        self._finish([*handles, entry("accuracy = confidence", linewidth=0.8, linestyle="--")], legend)
        return self

    def plot_samples(self, ax: "Axes | None" = None) -> "ReliabilityDisplay":
        """Draw the share of samples in each bin, for a panel below the diagram.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw on. By default those of a new pyplot figure.

        Returns
        -------
        self
        """
        import seaborn as sns

        from offramp.reports.figures.style import GREY

        ax, edges = self._start(ax), self.diagram.edges
        share = 100 * self.diagram.count / self.diagram.count.sum()  # (M,)
        bars = {"color": GREY, "alpha": 1, "edgecolor": "white", "linewidth": 0.5}
        sns.histplot(x=(edges[:-1] + edges[1:]) / 2, weights=share, bins=list(edges), ax=ax, **bars)
        ax.set(xlim=(0, 1), xlabel="Confidence (max softmax)", ylabel="Samples (%)")
        return self


class ControlDisplay(_Display):
    """Accuracy of policies if the threshold is δ itself, the target accuracy.

    Parameters
    ----------
    points : DataFrame
        One row per policy, threshold and, if there are several seeds, seed, with the columns policy (label), threshold,
        accuracy and seed. With several seeds, lines are means at equal δ, and bands are ± one standard deviation over
        seeds.
    reach : (float, float)
        Accuracies of the first and the last exit. Values of δ between them are within reach. The drawing extends this
        range on both sides by 15 % of its width, but by at least one point.
    labels : sequence of str, optional
        Labels to list in the legend. By default the policies in `points`.

    Attributes
    ----------
    ax_, figure_ : Axes and Figure
        Axes and figure of the last drawing.
    handles_ : list of artists
        Entries of the legend.

    Examples
    --------
    >>> import numpy as np
    >>> from offramp import ExitRecord, make_policy
    >>> from offramp.reports import ControlDisplay
    >>> rng = np.random.default_rng(0)
    >>> record = ExitRecord(rng.normal(size=(50, 3, 4)), rng.integers(0, 4, 50), cost=[1, 2, 3])
    >>> policies = {name: make_policy(name).fit(record) for name in ("pcee", "pcee-ws")}
    >>> display = ControlDisplay.from_record(policies, record, np.linspace(0, 1, 101)).plot()
    >>> display.ax_.get_xlabel()
    'δ (%)'
    """

    def __init__(self, points: "pd.DataFrame", reach: tuple[float, float], labels: Sequence[str] | None = None):
        self.points, self.reach = points, (min(reach), max(reach))
        self.labels = list(points["policy"].unique() if labels is None else labels)

    @classmethod
    def from_record(
        cls, policies: Policy | Mapping[str, Policy], record: ExitRecord, thresholds: np.ndarray
    ) -> "ControlDisplay":
        """Compute the accuracy of each policy at the thresholds, and the range of δ within reach on this record.

        Parameters
        ----------
        policies : Policy, or dict of str to Policy
            Fitted policies by label. A single policy is labelled with its name.
        record : ExitRecord
        thresholds : array-like of shape (T,)
            Values of δ, between 0 and 1.
        """
        import pandas as pd

        its = _labelled(policies)
        points = [evaluate(policy, record, thresholds).assign(policy=label) for label, policy in its.items()]
        ends = record.correct[:, [0, -1]].mean(axis=0)  # (2,)
        display = cls(pd.concat(points, ignore_index=True), tuple(ends))
        display.quality = quality_name(record)
        return display

    def plot(self, ax: "Axes | None" = None, *, error: bool = False, legend: bool = True) -> "ControlDisplay":
        """Draw accuracy against δ, both in %.

        The dashed diagonal is perfect control. Values of δ that are out of reach are shaded.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw on. By default those of a new pyplot figure.
        error : bool
            Whether to show the control error, which is the distance between accuracy and δ, instead of the accuracy.
            Perfect control is then 0.
        legend : bool
            Whether to draw the legend.

        Returns
        -------
        self
        """
        from matplotlib.patches import Patch

        from offramp.reports.figures import style

        ax = self._start(ax)
        low, high = 100 * self.reach[0], 100 * self.reach[1]
        margin = max(1.0, 0.15 * (high - low))
        shown = (low - margin, min(100.0, high + margin))
        points = self.points.assign(delta=100 * self.points["threshold"], value=100 * self.points["accuracy"])
        points = points[points["delta"].between(*shown)]
        if error:
            points = points.assign(value=(points["value"] - points["delta"]).abs())
        styles = style.policy_styles(self.labels)
        style.draw_lines(ax, points, "delta", "value", styles, markevery=0.2)
        for span in ((0, low), (high, 100)):
            ax.axvspan(*span, color=style.PALE, zorder=0, linewidth=0)
        handles = [*style.entries(styles), Patch(color=style.PALE, label="δ out of reach")]
        if error:
            ax.set(ylim=(0, None), ylabel="Control error (points)")
        else:
            ax.plot(shown, shown, color=style.BLACK, linewidth=0.8, linestyle="--")
            ax.set(ylim=(shown[0], min(100.5, ax.get_ylim()[1])), ylabel="Accuracy (%)")
            handles.insert(-1, style.entry("accuracy = δ", linewidth=0.8, linestyle="--"))
        ax.set(xlim=shown, xlabel="δ (%)")
        self._finish(handles, legend)
        return self


class StreamDisplay(_Display):
    """Accuracy, cost and alarms over a stream: what online policies do while the distribution changes.

    Parameters
    ----------
    streams : dict of str to DataFrame
        Tables of `offramp.online.run_stream` on the same stream, by label.
    window : int
        Number of latest samples over which accuracies and costs are averaged.
    unit : str or None
        Unit of the costs, for example MAC.

    Attributes
    ----------
    ax_, figure_ : Axes and Figure
        Axes and figure of the last drawing.
    handles_ : list of artists
        Entries of the legend.

    Examples
    --------
    >>> import numpy as np
    >>> from offramp import ExitRecord, make_policy
    >>> from offramp.online import Online, run_stream
    >>> from offramp.reports import StreamDisplay
    >>> rng = np.random.default_rng(0)
    >>> record = ExitRecord(rng.normal(size=(50, 3, 4)), rng.integers(0, 4, 50), cost=[1, 2, 3])
    >>> policy = make_policy("pcee").fit(record)
    >>> online = {method: Online(policy, 0.5, record, method) for method in ("static", "window")}
    >>> display = StreamDisplay({name: run_stream(its, record) for name, its in online.items()}, window=20).plot()
    >>> display.ax_.get_ylabel()
    'Accuracy (%)'
    """

    def __init__(self, streams: "Mapping[str, pd.DataFrame]", window: int = 500, unit: str | None = None):
        if len({len(table) for table in streams.values()}) != 1:
            raise ValueError("streams: expected at least one table, and all of the same samples")
        self.streams, self.window, self.unit = dict(streams), window, unit

    def plot(self, ax: "Axes | None" = None, *, show: str = "accuracy", legend: bool = True) -> "StreamDisplay":
        """Draw one line per policy, and the severities of the stream as shades, darker the higher they are.

        Vertical lines are the first samples at which alarms are raised, in the colour of the policy.

        Parameters
        ----------
        ax : Axes, optional
            Axes to draw on. By default those of a new pyplot figure.
        show : {"accuracy", "cost", "threshold", "evidence"}
            evidence: evidence of each alarm of each policy (see `Alarm.evidence`), cut off at −2 and 4. Alarms with
            equal evidence everywhere are drawn once.
        legend : bool
            Whether to draw the legend.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `show` is unknown, or if no table has its column.
        """
        from offramp.reports.figures import style

        if show not in ("accuracy", "cost", "threshold", "evidence"):
            raise ValueError(f"show is {show!r}; expected accuracy, cost, threshold or evidence")
        ax = self._start(ax)
        styles = style.stream_styles(self.streams)
        lines, factor, label = self._lines(show)
        if not lines:
            raise ValueError(f"streams: no table has what {show} shows")
        table = next(iter(self.streams.values()))
        if "severity" in table:
            style.shade_severities(ax, np.arange(1, len(table) + 1), table["severity"].to_numpy())
        drawn: list[np.ndarray] = []
        for policy, values, linestyle in lines:
            if any(np.array_equal(values, other, equal_nan=True) for other in drawn) and show == "evidence":
                continue
            drawn.append(values)
            look = styles[policy]
            ax.plot(
                np.arange(1, len(values) + 1), values / factor, color=look.color, linestyle=linestyle or look.linestyle
            )
        for policy, its in self.streams.items():
            for name in _alarms(its):
                raised = np.flatnonzero(its[f"raised_{name}"])
                if len(raised):
                    ax.axvline(raised[0] + 1, color=styles[policy].color, linewidth=0.8, linestyle=_ALARM_LINE)
        ax.set(xlabel="Sample", ylabel=label, xlim=(1, len(table)))
        handles = style.entries(styles, marker="")
        if any(table[f"raised_{name}"].any() for table in self.streams.values() for name in _alarms(table)):
            handles.append(style.entry("alarm", linewidth=0.8, linestyle=_ALARM_LINE))
        self._finish(handles, legend)
        return self

    def _lines(self, show: str) -> tuple[list[tuple[str, np.ndarray, str | None]], float, str]:
        """Return the lines (policy, values (N,), line style), the number to divide by, and the label of the axis."""
        if show == "evidence":
            lines = [
                (policy, table[f"evidence_{name}"].clip(-2, 4).to_numpy(), linestyle)
                for policy, table in self.streams.items()
                for name, linestyle in zip(_alarms(table), ("-", "--", "-.", ":") * 9)
            ]
            return lines, 1.0, "Evidence of alarms (log₁₀)"
        column, scale, factor, label = {
            "accuracy": ("correct", 100.0, 1.0, "Accuracy (%)"),
            "cost": ("cost", 1.0, *cost_label("Cost", self._costs(), self.unit)),
            "threshold": ("threshold", 1.0, 1.0, "Threshold δ"),
        }[show]
        window = 1 if show == "threshold" else self.window
        lines = [
            (policy, scale * table[column].rolling(window, min_periods=max(1, window // 2)).mean().to_numpy(), None)
            for policy, table in self.streams.items()
            if column in table
        ]
        return lines, factor, label

    def _costs(self) -> "pd.Series":
        import pandas as pd

        return pd.concat([table["cost"] for table in self.streams.values()])


_ALARM_LINE = (0, (1, 1.5))


def _alarms(table: "pd.DataFrame") -> list[str]:
    return [name.removeprefix("raised_") for name in table if name.startswith("raised_")]


def _labelled(policies: Policy | Mapping[str, Policy]) -> Mapping[str, Policy]:
    return {policies.name: policies} if isinstance(policies, Policy) else policies

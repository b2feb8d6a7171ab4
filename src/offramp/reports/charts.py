"""The interactive charts of the report page, as specifications for Vega-Lite."""

import math
from typing import Any

import altair as alt
import vl_convert

from offramp.reports.figures.style import BLACK, BLUE, VERMILLION, Look
from offramp.reports.labels import unit_name

INK = "currentColor"  # that of the text, in light and in dark
FONT = "system-ui, 'Helvetica Neue', Arial, sans-serif"
WIDE = 4  # ratio of the highest to the lowest cost
_FIT = alt.AutoSizeParams(type="fit-x", contains="padding", resize=True)
_COST = "format(datum.value, datum.value < 1000 ? '~g' : '~s')"
_PERCENT = {"format": ".1~%", "grid": True}
_FOCUS = {"filled": False, "size": 260, "strokeWidth": 3, "opacity": 1, "color": INK}


def bundle() -> str:
    """Return the code of Vega-Embed with Vega-Lite, which draws the charts, for a script element."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")


def specifications(
    looks: dict[str, Look], quality: str, unit: str | None, costs: tuple[float, float]
) -> dict[str, dict[str, Any]]:
    """Return the charts by the id of their element. The scale of costs is logarithmic if their range is wide.

    Their data are set by the page: `points` (shown points), `runs` (their full models), `focus` (the chosen point) and
    `curve` (the points of its policy), `exits`, `bins` and `coverages` (of the chosen point).
    """
    charts = {
        "chart": _main(looks, quality, unit, costs),
        "chart-exits": _exits(),
        "chart-confidence": _confidence(quality),
        "chart-reliability": _reliability(quality),
        "chart-coverage": _coverage(quality),
    }
    return {
        name: chart.properties(width="container", height=430 if name == "chart" else 220, autosize=_FIT)
        .configure(font=FONT, background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            **dict.fromkeys(("labelColor", "titleColor", "tickColor", "domainColor", "gridColor"), INK),
            **{"gridOpacity": 0.15, "titleFontWeight": "normal", "labelFontSize": 12, "titleFontSize": 12},
        )
        .to_dict()
        for name, chart in charts.items()
    }


def _main(looks: dict[str, Look], quality: str, unit: str | None, costs: tuple[float, float]) -> alt.LayerChart:
    order = list(looks)
    scales = {
        "color": [color(look) for look in looks.values()],
        "strokeDash": [dashes(look) for look in looks.values()],
        "shape": [_SHAPES[look.marker] for look in looks.values()],
    }
    by = {name: alt.Scale(domain=order, range=values) for name, values in scales.items()}
    wide = 0 < WIDE * costs[0] < costs[1]
    colour = alt.Color("policy:N", scale=by["color"], legend=None)
    points = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X(
            "cost:Q",
            title="Average cost" + ("" if unit is None else f" ({unit_name(unit)})"),
            scale=alt.Scale(type="log", nice=False, padding=12)
            if wide
            else alt.Scale(zero=False, nice=False, padding=12),
            axis=alt.Axis(labelExpr=_COST, tickCount=6),
        ),
        y=alt.Y("accuracy:Q", title=heading(quality), scale=alt.Scale(zero=False), axis=alt.Axis(**_PERCENT)),
        color=colour,
        detail="run:N",
    )
    nearest = alt.selection_point(name="picked", on="click", nearest=True, fields=["id"], toggle=False)
    bands = [
        points.properties(data=alt.NamedData(data))
        .mark_area(opacity=opacity, clip=True)
        .encode(y="accuracy_low:Q", y2="accuracy_high:Q")
        for data, opacity in (("points", 0.05), ("curve", 0.15))
    ]
    line = points.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("policy:N", scale=by["strokeDash"], legend=None), order="step:Q"
    )
    marks = (
        points.mark_point(filled=True, size=45, opacity=1)
        .encode(shape=alt.Shape("policy:N", scale=by["shape"], legend=None), tooltip="id:Q")
        .add_params(nearest)
    )
    names = (
        alt.Chart(alt.NamedData("runs"))
        .mark_text(align="right", baseline="top", dx=-4, dy=8, color=INK, fontSize=12)
        .encode(x="cost:Q", y="accuracy:Q", text="name:N")
    )
    focus = alt.Chart(alt.NamedData("focus")).mark_point(**_FOCUS).encode(x="cost:Q", y="accuracy:Q")
    return alt.layer(*bands, line, names, focus, marks)


def _exits() -> alt.LayerChart:
    bars = alt.Chart(alt.NamedData("exits")).encode(
        x=alt.X("exit:O", title="Exit", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("share:Q", title="Samples", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(**_PERCENT)),
    )
    text = bars.mark_text(dy=-7, color=INK).encode(text=alt.Text("share:Q", format=".0%"))
    return alt.layer(bars.mark_bar(color=BLUE), text)


def _confidence(quality: str) -> alt.LayerChart:
    means = alt.Chart(alt.NamedData("exits")).encode(x=alt.X("exit:O", title="Exit", axis=alt.Axis(labelAngle=0)))
    axis = alt.Y("estimate:Q", title=f"Estimate, {quality}", scale=alt.Scale(zero=False), axis=alt.Axis(**_PERCENT))
    gap = means.mark_rule(color=INK, opacity=0.5).encode(y=axis, y2="accuracy:Q")
    estimate = means.mark_point(filled=True, size=70, shape="diamond", color=VERMILLION, opacity=1).encode(y=axis)
    accuracy = means.mark_point(filled=True, size=70, color=BLUE, opacity=1).encode(y="accuracy:Q")
    return alt.layer(gap, estimate, accuracy)


def _reliability(quality: str) -> alt.LayerChart:
    scale = alt.Scale(domain=[0, 1])
    x = alt.X("estimate:Q", title="Estimate", scale=scale, axis=alt.Axis(**_PERCENT))
    y = alt.Y("accuracy:Q", title=heading(quality), scale=scale, axis=alt.Axis(**_PERCENT))
    diagonal = (
        alt.Chart(alt.Data(values=[{"estimate": end, "accuracy": end} for end in (0, 1)]))
        .mark_line(color=INK, strokeDash=[4, 3], strokeWidth=1)
        .encode(x=x, y=y)
    )
    bins = alt.Chart(alt.NamedData("bins")).encode(x=x, y=y)
    size = alt.Size("share:Q", scale=alt.Scale(domain=[0, 1], range=[25, 700]), legend=None)
    circles = bins.mark_point(filled=True, color=BLUE, opacity=0.8).encode(size=size)
    return alt.layer(diagonal, circles)


def _coverage(quality: str) -> alt.LayerChart:
    values = alt.Chart(alt.NamedData("coverages")).encode(
        x=alt.X("coverage:Q", title="Coverage", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(**_PERCENT)),
        y=alt.Y("risk:Q", title=f"Risk (1 − {quality})", axis=alt.Axis(format=".1~%", tickCount=5)),
    )
    return alt.layer(values.mark_line(color=BLUE, strokeWidth=2), values.mark_point(filled=True, color=BLUE, size=35))


def heading(quality: str) -> str:
    """Return the name of the quality with a capital letter."""
    return quality[:1].upper() + quality[1:]


def color(look: Look) -> str:
    """Return the colour of a policy. Black becomes that of the text, so that it is seen on a dark page."""
    return INK if look.color == BLACK else look.color


def dashes(look: Look) -> list[float]:
    """Return the dashes of a policy, in pixels."""
    return [2 * length for length in look.dashes] or [1, 0]


def _polygon(corners: int, inner: float = 1.0) -> str:
    """Return the path of a polygon, or of a star if its inner radius is below 1."""
    radii = [1.0] if inner == 1 else [1.0, inner]
    n = corners * len(radii)
    angles = [2 * math.pi * i / n for i in range(n)]
    ends = [(radii[i % len(radii)] * math.sin(a), -radii[i % len(radii)] * math.cos(a)) for i, a in enumerate(angles)]
    return "M" + "L".join(f"{x:.3f},{y:.3f}" for x, y in ends) + "Z"


# The markers of matplotlib, as shapes of Vega
_SHAPES = {
    **{"o": "circle", "s": "square", "D": "diamond", "P": "cross", "v": "triangle-down", "^": "triangle-up"},
    **{"<": "triangle-left", ">": "triangle-right", "d": "M0,-1L0.6,0L0,1L-0.6,0Z", "p": _polygon(5)},
    **{"h": _polygon(6), "*": _polygon(5, 0.4), "X": _polygon(4, 0.35)},
}

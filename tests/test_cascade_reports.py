"""Figures and tables of the search for cascades, with made-up tables and numbers computed by hand."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.text import Text

from offramp._io.tables import read_table, write_table
from offramp.cli import cli
from offramp.reports.catalogue import FIGURES, TABLES
from offramp.reports.figures import style
from offramp.reports.labels import band_name, variant_name
from offramp.reports.tables import cascade_claims

INPUTS = {
    "cascades-front": ["models", "choices"],
    "cascade-relation": ["relations"],
    "cascade-reduction": ["reductions"],
    "cascade-variants": ["reductions"],
}
LISTED = {
    "cascade-claims": ["reductions", "measures"],
    "reductions": ["reductions"],
    "cascade-variants": ["reductions"],
    "replacements": ["replacements"],
    "models": ["models"],
}
BANDS = [(0.8, 0.86), (0.86, 0.9)]
NAN = float("nan")


def models(seed):
    rows = [
        # model, cost, accuracy on validation and test, on the front
        ("net-a", 1e6, 0.6, 0.6, True),
        ("net-b", 4e6, 0.8, 0.8, True),
        ("net-c", 5e6, 0.7, 0.72, False),
        ("net-d", 20e6, 0.9, 0.9, True),
    ]
    table = pd.DataFrame(rows, columns=["model", "cost", "accuracy_validation", "accuracy", "front"])
    table[["accuracy_validation", "accuracy"]] += 0.01 * seed
    low, high = table["accuracy"] - 0.02, table["accuracy"] + 0.03
    return table.assign(seed=seed, accuracy_low=low, accuracy_high=high, parameters=table["cost"] / 4, unit="MAC")


def relations(seed):
    rows = [
        # small, large, accuracies, costs, exit rate, cost and reduction there
        ("net-a", "net-b", 0.6, 0.8, 1e6, 4e6, 0.5, 3e6, 4 / 3),
        ("net-a", "net-d", 0.6, 0.9, 1e6, 20e6, 0.02, 20.6e6, 20 / 20.6),
        ("net-c", "net-d", 0.75, 0.9, 5e6, 20e6, NAN, NAN, NAN),
    ]
    columns = ["small", "large", "accuracy_small", "accuracy_large", "cost_small", "cost_large"]
    table = pd.DataFrame(rows, columns=[*columns, "exit_rate", "cost", "reduction"])
    return table.assign(seed=seed, best_accuracy=0.9, best_exit_rate=0.1)


def choices(seed):
    rows = [
        # variant, kind, target, stages, accuracy and cost on test
        ("max-softmax", "single", 0.6, ("net-a",), 0.6, 1e6),
        ("max-softmax", "pair", 0.6, ("net-a",), 0.6, 1e6),
        ("max-softmax", "pair", 0.7, ("net-a", "net-b"), 0.76, 2e6),
        ("max-softmax", "pair", 0.75, ("net-a", "net-b"), 0.74, 3e6),  # costs more and is less accurate
        ("max-softmax", "pair", 0.9, ("net-b", "net-d"), 0.91, 10e6),
        ("max-softmax", "triple", 0.9, ("net-a", "net-b", "net-d"), 0.91, 8e6),
        ("max-softmax", "random", 0.7, ("net-a", "net-b"), 0.7, 3e6),
        ("max-softmax", "oracle", 0.9, ("net-a", "net-d"), 0.9, 3e6),
        ("mean-probability", "pair", 0.9, ("net-b", "net-d"), 0.97, 12e6),
    ]
    table = pd.DataFrame(
        {
            "seed": seed,
            "variant": variant,
            "kind": kind,
            "target": target,
            **{f"stage_{k + 1}": stages[k] if k < len(stages) else None for k in range(3)},
            "threshold_1": 0.5 if len(stages) > 1 else NAN,
            "threshold_2": 0.4 if len(stages) > 2 else NAN,
            "accuracy_validation": target,
            "cost_validation": cost,
            "unit": "MAC",
            "accuracy": accuracy + 0.01 * seed,
            "cost": cost,
            "exit_1": 0.5,
            "exit_2": NAN,
        }
        for variant, kind, target, stages, accuracy, cost in rows
    )
    table.loc[table["variant"] == "mean-probability", "accuracy"] += 0.01 * seed  # differs by 7 points, then 6 + 1 + 1
    return table


# Reductions of pairs on test data against the step front, in the first band. They are doubled in the second band.
REDUCTION = {"max-softmax": 2.0, "margin": 1.6, "entropy": 1.0, "mean-probability": 1.9}
KINDS = {"pair": 1.0, "triple": 1.5, "random": 0.6, "oracle": 4.0}
ACCURACIES = np.round(np.arange(0.8, 0.901, 0.02), 3)


def reductions(spread):
    """Return reductions. Intervals extend from 10 % below to 20 % above. With several seeds, means have a deviation."""
    rows = []

    def add(value, low, high, mean, scored_on, **about):
        of_test = value if scored_on == "test" else 1.1 * value
        rows.append(
            {**about, "low": low, "high": high, "mean": mean, "scored_on": scored_on}
            | {"accuracies": (2 if low == 0.86 else 3) + (scored_on == "validation")}
            | {"reduction": of_test, "reduction_sd": spread}
            | {"reduction_low": 0.9 * of_test, "reduction_high": 1.2 * of_test}
        )

    for variant, of_pairs in REDUCTION.items():
        for kind, factor in KINDS.items() if variant == "max-softmax" else [("pair", 1.0)]:
            for front, part in (("step", 1.0), ("interpolated", 0.75)):
                about, value = {"variant": variant, "kind": kind, "front": front}, of_pairs * factor * part
                for scored_on in ("validation", "test"):
                    for k, (low, high) in enumerate(BANDS):
                        for mean in ("arithmetic", "geometric"):
                            less = 1.0 if mean == "arithmetic" else 0.96
                            add(value * (1 + k) * less, low, high, mean, scored_on, **about)
                for a in ACCURACIES:
                    add(value * a, a, a, "arithmetic", "test", **about)
    return pd.DataFrame(rows)


def replacements(seed):
    rows = [
        # model, goal, kind, stages, thresholds, cost ratio, change of accuracy
        ("net-a", "accuracy", "single", ("net-a",), (), 1.0, 0.0),
        ("net-a", "cost", "single", ("net-a",), (), 1.0, 0.0),
        ("net-b", "accuracy", "pair", ("net-a", "net-b"), (-0.1234,), 0.75, -0.004),
        ("net-b", "cost", "triple", ("net-a", "net-b", "net-d"), (0.6, np.inf), 1.01, 0.02),
    ]
    return pd.DataFrame(
        {
            "seed": seed,
            "model": model,
            "goal": goal,
            "kind": kind,
            **{f"stage_{k + 1}": stages[k] if k < len(stages) else None for k in range(3)},
            **{f"threshold_{k + 1}": thresholds[k] if k < len(thresholds) else NAN for k in range(2)},
            "model_cost": 1e6 if model == "net-a" else 4e6,
            "unit": "MAC",
            "model_accuracy": 0.6 if model == "net-a" else 0.8,
            "cost": 3e6,
            "accuracy": 0.8,
            **{"cost_ratio": ratio, "cost_ratio_low": ratio - 0.05, "cost_ratio_high": ratio + 0.04},
            **{"accuracy_change": change, "accuracy_change_low": change - 0.01, "accuracy_change_high": change + 0.02},
        }
        for model, goal, kind, stages, thresholds, ratio, change in rows
    )


def measures(spread):
    rows = [
        # quantity, variant, kind, value, interval
        ("beaten_share", "max-softmax", "pair", 0.9, 0.8, 1.0),
        ("spearman_accuracy_difference", "max-softmax", "pair", -0.7, -0.8, -0.6),
        ("spearman_size_ratio", "max-softmax", "pair", -0.3, -0.4, -0.2),
        ("dominated_share", "max-softmax", "pair", 0.5, 0.25, 0.75),
        ("dominated_share", "max-softmax", "triple", 1.0, 0.75, 1.0),
        ("dominated_share", "margin", "pair", 0.0, 0.0, 0.1),  # does not belong to the first variant
    ]
    table = pd.DataFrame(rows, columns=["quantity", "variant", "kind", "value", "value_low", "value_high"])
    contrasts = [
        # quantity, variant, kind, variant and kind that it is compared with, band, value, interval
        ("reduction_ratio", "max-softmax", "triple", "max-softmax", "pair", *BANDS[0], 1.5, 0.9, 1.9),
        ("reduction_ratio", "max-softmax", "triple", "max-softmax", "pair", *BANDS[1], 1.5, 1.2, 1.9),
        ("reduction_ratio", "max-softmax", "pair", "margin", "pair", *BANDS[0], 1.25, 1.1, 1.4),
        ("reduction_ratio", "margin", "pair", "max-softmax", "pair", *BANDS[0], 0.8, 0.7, 0.9),  # the same, reversed
        ("reduction_ratio", "max-softmax", "pair", "entropy", "pair", *BANDS[0], 2.0, 1.8, 2.2),
        ("reduction_ratio", "margin", "pair", "entropy", "pair", *BANDS[0], 0.9, 0.8, 0.95),
        ("reduction_ratio", "mean-probability", "pair", "max-softmax", "pair", *BANDS[0], 0.95, 0.9, 1.1),
        ("top_accuracy_difference", "mean-probability", "pair", "max-softmax", "pair", NAN, NAN, 0.06, 0.02, 0.1),
    ]
    columns = [
        "quantity",
        "variant",
        "kind",
        "to_variant",
        "to_kind",
        "low",
        "high",
        "value",
        "value_low",
        "value_high",
    ]
    return pd.concat([table, pd.DataFrame(contrasts, columns=columns)], ignore_index=True).assign(value_sd=spread)


def save(folder, **tables):
    """Write the tables as `offramp search` does. Return the paths of some of them, the last one first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table = table.copy()
        table.insert(0, "dataset", "made")
        write_table(table, folder / f"{name}.parquet")
    return [folder / f"{name}.parquet" for name in reversed(tables)]


@pytest.fixture(scope="module", params=[1, 2], ids=["one seed", "two seeds"])
def searched(request, tmp_path_factory):
    return all_tables(request.param, tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return all_tables(1, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return all_tables(2, tmp_path_factory.mktemp("two"))


def all_tables(seeds, folder):
    of_seeds = {
        make.__name__: pd.concat([make(seed) for seed in range(seeds)], ignore_index=True)
        for make in (models, relations, choices, replacements)
    }
    spread = 0.1 if seeds > 1 else NAN
    save(folder, **of_seeds, reductions=reductions(spread), measures=measures(spread))
    return folder


def files(folder, names):
    return [folder / f"{name}.parquet" for name in reversed(names)]


def drawn(name, paths):
    with style.settings():
        figure = FIGURES[name].function(paths)
        figure.draw_without_rendering()
    return figure


# Figures


@pytest.mark.usefixtures("plain_fonts")
@pytest.mark.parametrize("name", INPUTS)
def test_every_figure_is_written_twice_and_always_the_same(name, two, tmp_path):
    for out in ("once", "again"):
        FIGURES[name].write(files(two, INPUTS[name]), tmp_path / out / name)
    assert len(list((tmp_path / "once").iterdir())) == 2
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@pytest.mark.parametrize("name", INPUTS)
def test_text_can_be_read_at_column_width(name, searched):
    figure = drawn(name, files(searched, INPUTS[name]))
    assert figure.get_figwidth() <= style.TWO_COLUMNS
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1  # no legend is cut off
    title, caption = FIGURES[name].headline
    assert len(title) < 60 < len(caption)
    assert "test" in caption or "validation" in caption


def of_color(ax, color):
    return [line for line in ax.lines if to_hex(line.get_color()) == to_hex(color)]


def test_the_front_shows_single_models_and_what_was_chosen(one):
    (ax,) = drawn("cascades-front", files(one, ["models", "choices"])).axes
    steps, between, on, off = of_color(ax, style.BLACK)
    for line in (steps, between, on):
        np.testing.assert_allclose(line.get_xydata(), [[1, 60], [4, 80], [20, 90]])
    assert [line.get_drawstyle() for line in (steps, between)] == ["steps-post", "default"]
    np.testing.assert_allclose(off.get_xydata(), [[5, 72]])
    (pairs,) = of_color(ax, style.KIND_STYLES["pair"].color)
    np.testing.assert_allclose(pairs.get_xydata(), [[1, 60], [2, 75], [10, 91]])  # 76 and 74 are pooled to 75
    (triples,) = of_color(ax, style.KIND_STYLES["triple"].color)
    np.testing.assert_allclose(triples.get_xydata(), [[8, 91]])
    assert [text.get_text() for text in ax.texts] == ["net a", "net b", "net c", "net d"]


def test_other_seeds_are_pale(two):
    (ax,) = drawn("cascades-front", files(two, ["models", "choices"])).axes
    pale, plain = of_color(ax, style.KIND_STYLES["pair"].color)
    assert pale.get_alpha() < 0.5
    assert plain.get_alpha() is None
    np.testing.assert_allclose(pale.get_ydata() - plain.get_ydata(), 1)
    dots, _random = (line for line in of_color(ax, style.GREY) if line.get_alpha() is not None)
    np.testing.assert_allclose(dots.get_ydata(), [61, 81, 73, 91])
    assert len(ax.texts) == 4


@pytest.mark.parametrize("times", [3, 7])
def test_names_do_not_hit_each_other(times, tmp_path):
    """Those without room beside their marks are further away."""
    rng = np.random.default_rng(0)
    near = pd.concat([models(0)] * times, ignore_index=True)
    near["model"] = [f"model-{k}" + "_of_a_long_name" * (times > 3) for k in range(len(near))]
    near["accuracy"] += rng.normal(0, 0.02, len(near))
    paths = save(tmp_path, models=near, choices=choices(0))
    (ax,) = drawn("cascades-front", paths).axes
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the lines to the marks
    assert len(boxes) == 4 * times
    assert sum(box.count_overlaps(boxes) for box in boxes) == len(boxes)  # each box overlaps only itself


def test_a_name_stands_nearest_to_its_own_mark(tmp_path):
    """Two models of equal cost, one just above the other, and more to their right."""
    near = pd.concat([models(0)] * 2, ignore_index=True).iloc[:6]
    near["model"], near["cost"] = [f"model-{k}" for k in range(6)], [5e6, 5e6, 7e6, 7.1e6, 1e6, 2e7]
    near["accuracy"] = [0.777, 0.773, 0.772, 0.774, 0.74, 0.82]
    (ax,) = drawn("cascades-front", save(tmp_path, models=near, choices=choices(0))).axes
    marks = ax.transData.transform(np.stack([near["cost"] / 1e6, 100 * near["accuracy"]], axis=1))
    for own, text in enumerate(ax.texts[:2]):
        box = text.get_window_extent()
        assert np.linalg.norm(marks - np.clip(marks, box.min, box.max), axis=1).argmin() == own


def test_a_front_without_triples_and_references(tmp_path, one):
    kept = choices(0)
    paths = save(tmp_path, models=models(0), choices=kept[kept["kind"].isin(["single", "pair"])])
    figure = drawn("cascades-front", paths)
    assert {"triples", "oracle"}.isdisjoint(text.get_text() for text in figure.legends[0].get_texts())
    whole = drawn("cascades-front", files(one, ["models", "choices"]))
    assert {"triples", "oracle"} <= {text.get_text() for text in whole.legends[0].get_texts()}


def test_the_relation_of_accuracy_difference_and_exit_rate(one):
    figure = drawn("cascade-relation", files(one, ["relations"]))
    rate, reduction, bar = figure.axes
    assert bar.get_ylim() == pytest.approx((4, 20))  # ratio of costs, large / small model
    darkest, lightest = colormaps["cividis_r"]([1.0, 0.0])
    for ax, values in ((rate, [50, 2]), (reduction, [4 / 3, 20 / 20.6])):
        (dots,) = ax.collections
        np.testing.assert_allclose(dots.get_offsets(), [[20, values[0]], [30, values[1]]])
        np.testing.assert_allclose(dots.get_facecolors(), [lightest, darkest])
        circle, square = dots.get_paths()  # the first costs less than the large model, the second does not
        assert len(circle.vertices) > len(square.vertices)
        (crosses,) = (line for line in ax.lines if line.get_marker() == "x")
        np.testing.assert_allclose(crosses.get_xdata(), [15])
    assert any(list(line.get_ydata()) == [1, 1] for line in reduction.lines)
    assert reduction.get_ylim()[0] < 20 / 20.6
    assert "cost" in bar.get_ylabel()


@pytest.mark.parametrize("pairs", [slice(2, 3), slice(0, 1)], ids=["never enough", "one pair"])
def test_relations_of_few_pairs_are_drawn(pairs, tmp_path):
    paths = save(tmp_path, relations=relations(0).iloc[pairs])
    axes = drawn("cascade-relation", paths).axes
    shown = sum(len(dots.get_offsets()) for dots in axes[0].collections)
    crosses = next(line for line in axes[0].lines if line.get_marker() == "x")
    assert (shown, len(crosses.get_xdata())) == ((0, 1) if pairs.start else (1, 0))
    low, high = axes[1].get_ylim()
    assert low < 1 < high


def test_reductions_accuracy_by_accuracy(searched):
    step, interpolated = drawn("cascade-reduction", files(searched, ["reductions"])).axes
    for ax, part in ((step, 1.0), (interpolated, 0.75)):
        for kind, factor in KINDS.items():
            (line,) = of_color(ax, style.KIND_STYLES[kind].color)
            np.testing.assert_allclose(line.get_xdata(), 100 * ACCURACIES)
            np.testing.assert_allclose(line.get_ydata(), 2 * factor * part * ACCURACIES)
        assert [list(line.get_ydata()) for line in of_color(ax, style.BLACK)] == [[1, 1]]
    assert step.get_ylim() == interpolated.get_ylim()


def test_reductions_without_triples(tmp_path):
    table = reductions(NAN)
    figure = drawn("cascade-reduction", save(tmp_path, reductions=table[table["kind"] == "pair"]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["pairs"]


def test_variants_beside_each_other(searched):
    first, second = drawn("cascade-variants", files(searched, ["reductions"])).axes
    for ax, twice in ((first, 1), (second, 2)):
        for color, part in ((style.VERMILLION, 1.0), (style.BLUE, 0.75)):
            down, marks = of_color(ax, color)
            expected = 0.96 * twice * part * np.array(list(REDUCTION.values()))  # geometric
            np.testing.assert_allclose(marks.get_xdata(), expected)
            assert np.round(marks.get_ydata()).tolist() == [0, 1, 2, 3]
            assert list(down.get_xdata()) == [expected[0]] * 2
    top, bottom = first.get_ylim()[::-1]
    assert top < 0 < 3 < bottom
    names = [label.get_text() for label in first.get_yticklabels()]
    assert names == ["max softmax", "margin", "entropy", "mean probability"]
    assert [ax.get_title() for ax in (first, second)] == ["Accuracies of 80–86 %", "Accuracies of 86–90 %"]


def test_variants_over_one_band_or_none(tmp_path):
    table = reductions(NAN)
    figure = drawn("cascade-variants", save(tmp_path, reductions=table[table["high"] == 0.86]))
    assert len(figure.axes) == 1
    at_points = save(tmp_path, reductions=table[table["low"] == table["high"]])
    with pytest.raises(ValueError, match="cascade-variants: pairs reach no band of accuracies on test data"):
        drawn("cascade-variants", at_points)


# Tables


@pytest.mark.parametrize("name", LISTED)
def test_every_table_is_written_three_times_and_always_the_same(name, searched, tmp_path):
    for out in ("once", "again"):
        TABLES[name].write(files(searched, LISTED[name]), tmp_path / out / name)
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    numbers = read_table(tmp_path / "once" / f"{name}.csv")  # as in the report
    text = TABLES[name].load().readable(numbers)
    assert (tmp_path / "once" / f"{name}.md").read_text() == TABLES[name].load().markdown(numbers, text)
    tex = (tmp_path / "once" / f"{name}.tex").read_text()
    assert tex.isascii()
    assert tex.count(r"\\") == len(text) + 1
    assert len(TABLES[name].headline[1]) > 80


def text_of(name, folder):
    return TABLES[name].load().readable(TABLES[name].function(files(folder, LISTED[name])))


def test_reductions_by_band_kind_and_front(one, two):
    text = text_of("reductions", one)
    assert list(text["Band"]) == ["80–86 %"] * 8 + ["86–90 %"] * 8
    assert list(text["Kind"])[:8:2] == ["pairs", "triples", "random deferral", "oracle"]
    assert list(text["Front"]) == ["step", "interpolated"] * 8
    assert list(text["Accuracies"]) == ["4 / 3"] * 8 + ["3 / 2"] * 8
    row = text.iloc[11]  # triples in the second band, interpolated: 2 · 1.5 · 0.75 · 2
    assert row["Arithmetic, test"] == "4.50 [4.05, 5.40]"
    assert row["Geometric, test"] == "4.32 [3.89, 5.18]"
    assert row["Arithmetic, validation"] == "4.95 [4.46, 5.94]"
    assert row["Geometric, validation"] == "4.75 [4.28, 5.70]"
    assert text_of("reductions", two)["Arithmetic, test"][11] == "4.50 [4.05, 5.40] ± 0.10"


def test_reductions_in_any_order_of_rows(tmp_path, one):
    base = reductions(NAN).query("variant == 'max-softmax'")
    shuffled = save(tmp_path, reductions=base.sample(frac=1, random_state=0))
    pd.testing.assert_frame_equal(
        TABLES["reductions"].load().readable(TABLES["reductions"].function(shuffled)), text_of("reductions", one)
    )


def test_what_is_not_reached_is_a_dash(tmp_path):
    table = reductions(NAN)
    gone = (table["scored_on"] == "test") & (table["kind"] == "triple") & (table["low"] == 0.86)
    text = TABLES["reductions"].load().readable(TABLES["reductions"].function(save(tmp_path, reductions=table[~gone])))
    row = text.iloc[10]
    assert (row["Kind"], row["Arithmetic, test"], row["Accuracies"]) == ("triples", "–", "3")
    assert row["Arithmetic, validation"].startswith("6.60")


def test_reductions_by_variant(one):
    text = text_of("cascade-variants", one)
    assert list(text["Variant"]) == ["max softmax", "margin", "entropy", "mean probability"] * 2
    assert list(text["Band"]) == ["80–86 %"] * 4 + ["86–90 %"] * 4
    fronts = ["Step, arithmetic", "Step, geometric", "Interpolated, arithmetic", "Interpolated, geometric"]
    assert list(text) == ["Band", "Variant", "Accuracies", *fronts]
    assert list(text.iloc[5])[3:] == [
        "3.20 [2.88, 3.84]",
        "3.07 [2.76, 3.69]",
        "2.40 [2.16, 2.88]",
        "2.30 [2.07, 2.76]",
    ]


def test_replacements_name_the_stages_and_thresholds(one, two):
    text = text_of("replacements", one)
    assert list(text["Goal"]) == ["as accurate"] * 2 + ["as cheap"] * 2
    assert list(text["Model"]) == ["net a", "net b"] * 2
    assert list(text["Replaced by"]) == ["–", "net a → net b", "–", "net a → net b → net d"]
    assert list(text["Thresholds"]) == ["–", "−0.123", "–", "0.600, ∞"]
    assert list(text["Cost ratio"]) == ["–", "0.750 [0.700, 0.790]", "–", "1.010 [0.960, 1.050]"]
    assert text["Change of accuracy (points)"][1] == "−0.40 [−1.40, +1.60]"
    assert list(text["Cost (M MACs)"]) == ["1.00", "4.00"] * 2
    assert list(text_of("replacements", two)["Seed"]) == ["0", "0", "1", "1"] * 2


def test_models_of_one_seed_have_intervals_and_of_two_deviations(one, two):
    text = text_of("models", one)
    assert list(text["Model"]) == ["net a", "net b", "net c", "net d"]
    assert list(text["Accuracy, test (%)"])[2] == "72.0 [70.0, 75.0]"
    assert list(text["On the front"]) == ["yes", "yes", "no", "yes"]
    assert list(text["Parameters (M)"]) == ["0.25", "1.00", "1.25", "5.00"]
    text = text_of("models", two)
    assert text["Accuracy, test (%)"][2] == "72.5 ± 0.7"
    assert text["Accuracy, validation (%)"][0] == "60.5 ± 0.7"
    assert list(text["On the front"]) == ["2 of 2", "2 of 2", "0 of 2", "2 of 2"]


def test_models_whose_parameters_nobody_counted(tmp_path):
    paths = save(tmp_path, models=models(0).assign(parameters=NAN))
    text = TABLES["models"].load().readable(TABLES["models"].function(paths))
    assert not [column for column in text if column.startswith("Parameters")]


def test_seconds_are_of_the_last_exit_and_mean_over_seeds(tmp_path):
    rows = [("net-a", 0, 1, 0.001), ("net-a", 0, 2, 0.002), ("net-a", 1, 1, 0.001), ("net-a", 1, 2, 0.004)]
    table = pd.DataFrame(rows, columns=["system", "seed", "exit", "seconds"])
    table = table.assign(seconds_low=table["seconds"] / 2, seconds_high=2 * table["seconds"])
    table = table.assign(batch_size=256, batches=10, threads=1, device="cpu", dataset="made")
    paths = [tmp_path / f"{seed}.csv" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        write_table(table[table["seed"] == seed], path)
    text = TABLES["seconds"].load().readable(TABLES["seconds"].function(paths))
    assert text.to_numpy().tolist() == [["net a", "3.000 [1.500, 6.000]", "256", "10", "1", "cpu"]]


def test_published_seconds_are_listed_by_device(tmp_path):
    table = pd.DataFrame({"system": "net-a", "seed": 0, "exit": 1, "seconds": [0.001, 0.02], "device": ["gpu", "cpu"]})
    write_table(table, tmp_path / "seconds.csv")
    text = TABLES["seconds"].load().readable(TABLES["seconds"].function([tmp_path / "seconds.csv"]))
    assert text.to_dict("list") == {
        "Model": ["net a", "net a"],
        "ms per sample": ["1.000", "20.000"],
        "Device": ["gpu", "cpu"],
    }


# Claims


@pytest.mark.parametrize(
    ("low", "high", "wanted", "verdict"),
    [
        (1.01, 2, "above", "holds"),
        (1, 2, "above", "undecided"),
        (0.5, 0.99, "above", "does not hold"),
        (0.5, 0.99, "below", "holds"),
        (0.5, 1, "below", "undecided"),
        (1.01, 2, "below", "does not hold"),
        (NAN, NAN, "above", "undecided"),
    ],
)
def test_verdict(low, high, wanted, verdict):
    assert cascade_claims.verdict(low, high, wanted, 1.0) == verdict


def claims(paths):
    return TABLES["cascade-claims"].function(paths)


def test_claims_by_hand(two):
    table = claims(files(two, LISTED["cascade-claims"]))
    of = table.set_index(["part", "low"])
    assert list(table["claim"]) == [1] * 8 + [2] + [3] * 3 + [4] * 2
    pairs = of.loc[("pairs, log-interpolated front", 0.8)]
    numbers = [f"estimate{ending}" for ending in ("", "_low", "_high", "_sd")]
    np.testing.assert_allclose(pairs[[*numbers, "beside"]].astype(float), [1.5, 1.35, 1.8, 0.1, 0.9])
    assert pairs["verdict"] == "holds"
    assert [of.loc[("triples over pairs", low), "verdict"] for low in (0.8, 0.86)] == ["undecided", "holds"]
    alone = table.set_index("part")
    assert alone.loc["front that pairs beat", "verdict"] == "undecided"
    assert alone.loc["front that triples beat", "verdict"] == "holds"
    relation = alone.loc["exit rate with accuracy difference"]
    assert (relation["verdict"], relation["estimate"], relation["beside"]) == ("holds", -0.7, -0.3)
    measures = ["max softmax over margin", "max softmax over entropy", "margin over entropy"]
    assert [alone.loc[part, "verdict"] for part in measures] == ["holds", "holds", "does not hold"]
    assert alone.loc["mean probability over max softmax", "verdict"] == "undecided"
    highest = alone.loc["highest accuracy, mean probability − max softmax"]
    np.testing.assert_allclose(highest[numbers].astype(float), [0.06, 0.02, 0.1, 0.1])
    assert highest["verdict"] == "holds"


def test_claims_in_words(one):
    table = claims(files(one, LISTED["cascade-claims"]))
    text = TABLES["cascade-claims"].load().readable(table).set_index(["What", "Accuracies"])
    assert text.loc[("pairs, step front", "80–86 %"), "Evidence"] == (
        "reduction 2.00 [1.80, 2.40], above 1? Random deferral: 1.20"
    )
    assert text.loc[("front that pairs beat", "all"), "Evidence"] == "share 50 [25, 75] %, above 50 %?"
    assert text.loc[("exit rate with accuracy difference", "all"), "Evidence"] == (
        "rank correlation −0.70 [−0.80, −0.60], below 0? With the ratio of costs: −0.30"
    )
    assert text.loc[("highest accuracy, mean probability − max softmax", "all"), "Evidence"] == (
        "difference +6.00 [+2.00, +10.00] points, above 0 points?"
    )
    first, second, _, fourth = TABLES["cascade-claims"].load().findings(table)
    assert "It holds in 6 of 8 cases, does not hold in 0, and is undecided in 2." in first
    assert first.endswith("Undecided: front that pairs beat (all), triples over pairs (80–86 %).")
    assert second.endswith("It holds in 1 of 1 cases, does not hold in 0, and is undecided in 0.")
    assert "Undecided: mean probability over max softmax (80–86 %)" in fourth


def test_claims_about_what_was_not_measured_are_left_out(tmp_path):
    def kept(table):
        return table[(table["variant"] == "max-softmax") & table["kind"].isin(["single", "pair"])]

    few = measures(NAN).assign(value=lambda table: table["value"].where(table["quantity"] != "dominated_share"))
    few = few[few["to_variant"].isna()]
    paths = save(tmp_path, reductions=kept(reductions(NAN)), measures=kept(few))
    table = claims(paths)
    assert list(table["part"]) == [
        *["pairs, step front", "pairs, log-interpolated front"] * 2,
        "exit rate with accuracy difference",
    ]
    assert "Random" not in TABLES["cascade-claims"].load().readable(table)["Evidence"][0]
    assert len(TABLES["cascade-claims"].load().findings(table)) == 2


def test_a_single_reduction_without_an_interval_decides_nothing(tmp_path, one):
    table = reductions(NAN).assign(reduction_low=NAN, reduction_high=NAN)
    paths = save(tmp_path, reductions=table) + files(one, ["measures"])
    verdicts = claims(paths).query("number == 'reduction'")["verdict"]
    assert set(verdicts) == {"undecided"}


# Names and refusals


def test_names_of_variants_and_bands():
    assert variant_name("max-softmax") == "max softmax"
    assert variant_name("temperature-mean-probability") == "temperature, mean probability"
    assert [band_name(*band) for band in [(0.57, 0.875), (0.8, 1)]] == ["57–87.5 %", "80–100 %"]


def test_other_files_are_named(one, tmp_path):
    models_, relations_ = files(one, ["relations", "models"])
    with pytest.raises(ValueError, match=r"models\.parquet: expected what `offramp search --relations-out` writes"):
        drawn("cascade-relation", [models_])
    with pytest.raises(ValueError, match="no file of what `offramp search --choices-out` writes among the 1 given"):
        drawn("cascades-front", [models_])
    with pytest.raises(ValueError, match=r"relations\.parquet: expected what `offramp search --models-out` writes"):
        TABLES["models"].write([relations_], tmp_path / "t")


@pytest.mark.parametrize(("verb", "names"), [("figure", INPUTS), ("table", LISTED)])
def test_the_help_names_them(verb, names):
    said = CliRunner().invoke(cli, [verb, "--help"]).output
    assert all(name in said for name in names)

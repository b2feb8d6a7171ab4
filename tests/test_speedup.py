"""Figures and tables of speed-up and accuracy show the given numbers, and verdicts change at their bounds."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from offramp._io.tables import write_table
from offramp.cli import cli
from offramp.comparison.matched import against_last_exit
from offramp.reports.catalogue import FIGURES, TABLES
from offramp.reports.figures import agreement, exit_histogram, speedup, style
from offramp.reports.labels import title_and_caption
from offramp.reports.loading import KINDS, read_tables
from offramp.reports.page import write_report
from offramp.reports.tables import beem_claims, duels
from strategies import quick

SYSTEMS = {"minilm": 3, "bert": 5}  # exits
SEEDS = (0, 1)
FIGURES_HERE = ("speedup", "exit-histogram", "agreement")
TABLES_HERE = ("beem-claims", "duels", "speedup", "per-exit")
NUMBERS = ("", "_sd", "_low", "_high")


def around(name, value, half=0.01):
    return dict(zip((f"{name}{ending}" for ending in NUMBERS), (value, half / 3, value - half, value + half)))


def make_curves():
    """Curves whose accuracy falls by 0.02 per layer saved, or 0.04 in seed 1. Patience has three points."""
    rows = []
    for system, n_exits in SYSTEMS.items():
        for seed in SEEDS:
            for policy, thresholds in (("confidence", np.linspace(0, 1, 41)), ("patience", [0, 1, 2])):
                for threshold in thresholds:
                    early = 1 - threshold / thresholds[-1]  # share of samples that leaves at exit 1
                    shares = {f"exit_{i}": 0.0 for i in range(2, n_exits)} | {"exit_1": early}
                    rows.append(
                        {"system": system, "seed": seed, "policy": policy, "threshold": threshold, "cost": 1.0}
                        | {"accuracy": 0.9 - 0.02 * (1 + seed) * early * (n_exits - 1)}
                        | shares
                        | {f"exit_{n_exits}": 1 - early}
                    )
    return pd.DataFrame(rows)


def make_exits():
    rows = []
    for system, n_exits in SYSTEMS.items():
        for seed in SEEDS:
            for i in range(n_exits):
                rows.append(
                    {"system": system, "seed": seed, "exit": i + 1, "accuracy": 0.9 - 0.1 * (n_exits - 1 - i)}
                    | {"agreement": 0.5 + 0.1 * i + 0.02 * seed if i else np.nan, "cost": i + 1.0}
                    | {"overconfidence": 0.0, "parameters": 1}
                )
    return pd.DataFrame(rows)


def make_speedup(policies=("beem-a", "confidence", "beem-c"), metric="accuracy"):
    rows = []
    choices = [("shared", 0.0), ("shared", 0.005), ("shared", 0.01)]
    choices += [("per exit, overall", 0.0), ("per exit, same samples", 0.0)]
    for system, n_exits in SYSTEMS.items():
        for p, policy in enumerate(policies):
            for k, (choice, drop) in enumerate(choices):
                rows.append(
                    {"system": system, "policy": policy, "choice": choice, "drop": drop}
                    | around("speedup", 1.6 + p + 0.1 * k)
                    | around("cost", 0.5)
                    | around("loss", 0.002 - 0.001 * k)
                    | around("accuracy", 0.9)
                    | {"full_accuracy": 0.9, "worse": 0.5, "validation_loss": 0.001 * k, "exits": n_exits}
                    | {f"exit_{i + 1}": 1 / n_exits for i in range(n_exits)}
                    | {"metric": metric}
                    | around("metric_loss", 0.03)
                )
    return pd.DataFrame(rows)


def make_duel(system, policy, rival, match="budgets", gain=(-0.01, 0.01), cost=(-0.01, 0.01)):
    ends = {"gain_low": gain[0], "gain_high": gain[1], "cost_difference_low": cost[0], "cost_difference_high": cost[1]}
    means = {"gain": np.mean(gain), "gain_sd": 0.001, "cost_difference": np.mean(cost), "cost_difference_sd": 0.001}
    about = {"system": system, "policy": policy, "rival": rival, "match": match}
    return about | means | ends | {"speedup": 1.5, "rival_speedup": 1.4}


def make_duels():
    return pd.DataFrame(
        [
            make_duel(system, "beem-a", "confidence", match, gain=(0.001, 0.01))
            for system in SYSTEMS
            for match in ("drop 0", "drop 0.5", "drop 1", "budgets")
        ]
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    curves, exits = make_curves(), make_exits()
    for seed in SEEDS:
        write_table(curves[curves["seed"] == seed], folder / f"curves-{seed}.parquet")
        write_table(exits[exits["seed"] == seed], folder / f"exits-{seed}.parquet")
    write_table(make_speedup(), folder / "speedup.parquet")
    write_table(make_duels(), folder / "duels.parquet")
    return folder


def inputs(study, name):
    curves, exits = sorted(study.glob("curves-*")), sorted(study.glob("exits-*"))
    files = {"agreement": exits, "duels": [study / "duels.parquet"]}
    files["beem-claims"] = [study / "duels.parquet", study / "speedup.parquet"]
    return files.get(name, [study / "speedup.parquet"]) if name != "speedup figure" else [*exits, *curves]


def figure_inputs(study, name):
    return inputs(study, "speedup figure" if name == "speedup" else name)


def drawn(function, files, **options):
    with style.settings():
        return function(files, **options)


# Figures


@pytest.mark.usefixtures("plain_fonts")
@pytest.mark.parametrize("name", FIGURES_HERE)
def test_figures_are_written_twice_always_the_same_and_can_be_read(name, study, tmp_path):
    for out in ("once", "again"):
        FIGURES[name].write(figure_inputs(study, name), tmp_path / out)
    for kind in ("pdf", "png"):
        assert (tmp_path / f"once.{kind}").read_bytes() == (tmp_path / f"again.{kind}").read_bytes()
    figure = drawn(FIGURES[name].function, figure_inputs(study, name))
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= style.TWO_COLUMNS
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1  # no legend is cut off
    title, caption = FIGURES[name].headline
    assert len(title) < 60 < len(caption)
    assert "test" in caption.lower()


def test_speedup_is_exits_over_the_mean_number_passed():
    curves, exits = make_curves(), make_exits()
    points = against_last_exit(curves, exits)
    for before, after in zip(curves.to_dict("records"), points.to_dict("records")):
        n_exits = SYSTEMS[before["system"]]
        layers = sum(i * before[f"exit_{i}"] for i in range(1, n_exits + 1))
        assert after["speedup"] == pytest.approx(n_exits / layers)
        assert after["loss"] == pytest.approx(before["accuracy"] - 0.9)
    with pytest.raises(ValueError, match="speedup: no exits of bert seed 1; expected what `offramp evaluate --exits`"):
        against_last_exit(curves, exits[(exits["system"] != "bert") | (exits["seed"] == 0)])


def mean_and_sd(table):
    """Compute mean and standard deviation as seaborn draws them."""
    at = table.groupby("speedup")["loss"]
    return np.array(list(at.groups)), at.mean().to_numpy(), at.std().fillna(0).to_numpy()


@quick
@given(
    st.lists(
        st.tuples(
            st.floats(0.001, 0.1),  # accuracy per layer
            st.lists(st.integers(1, 299), min_size=8, max_size=30, unique=True),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_seeds_are_averaged_at_equal_speedup(seeds):
    """If the loss of each seed is linear in its mean number of layers, so is the mean over seeds.

    This does not depend on the operating points of each seed.
    """
    rows = [
        {"seed": s, "threshold": t, "layers": 1 + layer / 100, "loss": -slope * (4 - 1 - layer / 100), "exits": 4}
        for s, (slope, passed) in enumerate(seeds)
        for t, layer in enumerate([0, 300, *passed])
    ]
    points = pd.DataFrame(rows).eval("speedup = exits / layers")
    table, few = speedup.curve(points)
    assert not few
    faster, mean, sd = mean_and_sd(table)
    assert (faster.min(), faster.max()) == pytest.approx((1, 4))
    slopes = np.array([slope for slope, _ in seeds])
    np.testing.assert_allclose(mean, -100 * slopes.mean() * (4 - 4 / faster), atol=1e-9)
    spread = slopes.std(ddof=1) if len(slopes) > 1 else 0.0
    np.testing.assert_allclose(sd, 100 * spread * (4 - 4 / faster), atol=1e-9)


def test_few_points_are_averaged_at_equal_threshold():
    points = against_last_exit(make_curves(), make_exits()).query("system == 'bert' and policy == 'patience'")
    table, few = speedup.curve(points)
    assert few
    faster, mean, sd = mean_and_sd(table)
    np.testing.assert_allclose(faster, [1, 5 / 3, 5])
    np.testing.assert_allclose(mean, [0, -6, -12], atol=1e-9)
    np.testing.assert_allclose(sd, 100 * np.array([0, 0.04, 0.08]) / np.sqrt(2), atol=1e-9)


def test_speedup_shows_each_system_against_its_last_exit(study):
    figure = drawn(speedup.draw, figure_inputs(study, "speedup"))
    assert [ax.get_title() for ax in figure.axes] == ["MiniLM", "BERT"]
    for ax, n_exits in zip(figure.axes, SYSTEMS.values()):
        assert ax.get_ylim() == (-4, 1)
        assert ax.get_xlim()[0] < 1 < 1.5 < ax.get_xlim()[1] <= 1.02 * n_exits
        of_confidence = next(line for line in ax.lines if line.get_marker() == "o")
        x, y = of_confidence.get_data()
        np.testing.assert_allclose(y, -3 * (n_exits - n_exits / x), atol=1e-9)
        assert any(list(line.get_ydata()) == [0, 0] for line in ax.lines)
        assert any(list(line.get_xdata()) == [1.5, 1.5] for line in ax.lines)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["max softmax", "patience"]
    alone = drawn(speedup.draw, figure_inputs(study, "speedup"), policies=["patience"])
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["patience"]
    with pytest.raises(ValueError, match="policy 'beem' is not in the files"):
        speedup.draw(figure_inputs(study, "speedup"), policies=["beem"])


def test_gains_are_not_cut_off(tmp_path):
    write_table(make_curves().assign(accuracy=0.95), tmp_path / "c.parquet")
    write_table(make_exits(), tmp_path / "e.parquet")
    figure = drawn(speedup.draw, [tmp_path / "c.parquet", tmp_path / "e.parquet"])
    assert all(ax.get_ylim() == (-4, pytest.approx(5.2)) for ax in figure.axes)


def test_exit_histogram_stacks_the_shares_at_no_allowed_loss(tmp_path):
    table = make_speedup()
    minilm = {"exit_1": 0.5, "exit_2": 0.01, "exit_3": 0.49}
    of_shown = (table["system"] == "minilm") & (table["choice"] == "shared") & (table["drop"] == 0)
    table.loc[of_shown, list(minilm)] = list(minilm.values())
    table = table[(table["system"] == "minilm") | (table["policy"] != "beem-c")]
    write_table(table, tmp_path / "speedup.parquet")
    figure = drawn(exit_histogram.draw, [tmp_path / "speedup.parquet"])
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["max softmax", "BEEM-C", "BEEM-A"]
    widths = np.array([[bar.get_width() for bar in bars] for bars in first.containers])  # (L, policies)
    np.testing.assert_allclose(widths, np.outer([50, 1, 49], np.ones(3)))
    widths = np.array([[bar.get_width() for bar in bars] for bars in second.containers])
    np.testing.assert_allclose(widths, np.outer(np.full(5, 20), [1, 0, 1]))  # no BEEM-C in this panel
    said = [text.get_text() for text in first.texts]
    assert "2" not in said  # does not fit
    assert said.count("1") == said.count("3") == 3
    assert [text for text in said if "×" in text] == ["2.60×", "3.60×", "1.60×"]
    assert [text.get_text() for text in second.texts if "×" in text.get_text()] == ["2.60×", "1.60×"]


def test_shades_of_the_exits_differ_in_lightness():
    lightness = exit_histogram._SHADES(np.linspace(0, 1, 12))[:, :3] @ [0.299, 0.587, 0.114]  # (12,)
    assert (np.diff(lightness) < -0.02).all()


def test_agreement_is_averaged_over_seeds(study, tmp_path):
    figure = drawn(agreement.draw, inputs(study, "agreement"))
    left, right = figure.axes
    for line, n_exits in zip(left.lines, SYSTEMS.values()):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(2, n_exits + 1))
        np.testing.assert_allclose(line.get_ydata(), 51 + 10 * np.arange(1, n_exits))
    for line, n_exits in zip(right.lines, SYSTEMS.values()):
        np.testing.assert_allclose(line.get_ydata(), 90 - 10 * np.arange(n_exits - 1, -1, -1))
    assert len({line.get_marker() for line in left.lines}) == len(SYSTEMS)
    write_table(make_exits().drop(columns="agreement"), tmp_path / "exits.parquet")
    with pytest.raises(ValueError, match="agreement: the exits have no column agreement"):
        agreement.draw([tmp_path / "exits.parquet"])


def test_policies_of_the_speedup_look_different():
    shown = style.policy_styles(speedup._SHOWN).values()
    assert len({s.color for s in shown}) == len({s.marker for s in shown}) == len(shown)
    everything = [look[:2] for look in [*style._KNOWN.values(), *style._REMAINING]]
    assert len(set(everything)) == len(everything)
    lightness = sorted(np.dot(to_rgb(s.color), [0.299, 0.587, 0.114]) for s in shown if s.linestyle == "-")
    assert min(np.diff(lightness)) > 0.05  # solid lines can be distinguished in greyscale


# Tables


@pytest.mark.parametrize("name", TABLES_HERE)
def test_tables_are_written_three_ways_and_always_the_same(name, study, tmp_path):
    for out in ("once", "again"):
        TABLES[name].write(inputs(study, name), tmp_path / out)
    for ending in ("csv", "md", "tex"):
        assert (tmp_path / f"once.{ending}").read_bytes() == (tmp_path / f"again.{ending}").read_bytes()
    table = TABLES[name].load()
    read, made = pd.read_csv(tmp_path / "once.csv"), table.numbers(inputs(study, name))
    pd.testing.assert_frame_equal(table.readable(read), table.readable(made))  # the report reads the .csv
    assert table.findings(read) == table.findings(made)
    assert (tmp_path / "once.tex").read_text().isascii()
    title, caption = title_and_caption(table.numbers)
    assert len(title) < 60
    assert "validation" in caption
    assert "test" in caption


def test_speedup_table_lists_drops_then_rules(study):
    numbers = TABLES["speedup"].function(inputs(study, "speedup"))
    text = TABLES["speedup"].load().readable(numbers)
    of_minilm = text[text["System"] == "MiniLM"]
    choices = ["shared", "per exit, overall", "per exit, same samples", "shared", "shared"]
    assert list(of_minilm["Threshold"]) == [choice for choice in choices for _ in range(3)]
    assert list(of_minilm["Drop allowed (points)"]) == ["0.0"] * 3 + ["–"] * 6 + ["0.5"] * 3 + ["1.0"] * 3
    assert list(of_minilm["Policy"]) == ["max softmax", "BEEM-C", "BEEM-A"] * 5
    row = text.iloc[2]
    assert row["Speed-up (layers)"] == "1.60 [1.59, 1.61] ± 0.00"
    assert row["Cost (%)"] == "50.0 [49.0, 51.0] ± 0.3"
    assert row["Change of accuracy (points)"] == "+0.20 [−0.80, +1.20] ± 0.33"
    assert row["Worse (% of seeds)"] == "50"
    assert "Metric" not in text


def test_another_metric_is_shown_where_there_is_one(tmp_path):
    write_table(make_speedup(metric="matthews"), tmp_path / "speedup.parquet")
    text = TABLES["speedup"].load().readable(TABLES["speedup"].function([tmp_path / "speedup.parquet"]))
    assert set(text["Metric"]) == {"Matthews"}
    assert text["Change of the metric (points)"][0] == "+3.00 [+2.00, +4.00] ± 0.33"


def test_per_exit_sets_the_three_choices_side_by_side(tmp_path):
    table = make_speedup()
    write_table(table[(table["policy"] != "confidence") | (table["choice"] == "shared")], tmp_path / "s.parquet")
    numbers = TABLES["per-exit"].function([tmp_path / "s.parquet"])
    assert list(zip(numbers.system, numbers.policy)) == [
        (system, policy) for system in SYSTEMS for policy in ("beem-c", "beem-a")
    ]
    row = numbers[numbers["policy"] == "beem-a"].iloc[0]
    assert (row.shared_speedup, row.overall_speedup, row.same_samples_speedup) == pytest.approx((1.6, 1.9, 2.0))
    assert (row.shared_loss, row.overall_loss, row.same_samples_loss) == pytest.approx((0.002, -0.001, -0.002))
    assert row.same_samples_validation_loss == pytest.approx(0.004)
    text = TABLES["per-exit"].load().readable(numbers).iloc[1]
    assert text["Speed-up, per exit, overall"] == "1.90 [1.89, 1.91] ± 0.00"
    assert text["Change, per exit, same samples"] == "−0.20 [−1.20, +0.80] ± 0.33"
    assert text["On validation, same samples"] == "+0.40"
    assert text["Worse (% of seeds)"] == "50, 50, 50"


@pytest.mark.parametrize(
    ("gain", "cost", "at_drop", "at_budgets"),
    [
        ((0.1, 0.2), (-0.2, -0.1), "better", "better"),  # cheaper and more accurate
        ((-0.1, 0.1), (-0.2, -0.1), "better", "undecided"),
        ((-0.1, 0.0), (-0.2, -0.1), "better", "undecided"),
        ((-0.2, -0.1), (-0.2, -0.1), "undecided", "worse"),  # cheaper and less accurate
        ((0.1, 0.2), (-0.1, 0.1), "better", "better"),
        ((0.1, 0.2), (0.0, 0.1), "better", "better"),
        ((0.1, 0.2), (0.1, 0.2), "undecided", "better"),
        ((0.0, 0.2), (-0.1, 0.1), "undecided", "undecided"),
        ((0.0, 0.0), (0.0, 0.0), "undecided", "undecided"),
        ((-0.1, 0.0), (0.1, 0.2), "worse", "undecided"),
    ],
)
def test_verdict_on_a_duel(gain, cost, at_drop, at_budgets):
    assert duels.verdict(*gain, *cost, equal_cost=False) == at_drop
    assert duels.verdict(*gain, *cost, equal_cost=True) == at_budgets


interval = st.tuples(st.sampled_from([-2, -1, 0, 1, 2]), st.integers(0, 3)).map(lambda ends: (ends[0], sum(ends)))


@given(interval, interval, st.booleans())
def test_the_rival_sees_the_mirror_image(gain, cost, equal_cost):
    mirrored = {"better": "worse", "worse": "better", "undecided": "undecided"}
    own = duels.verdict(*gain, *cost, equal_cost)
    other = duels.verdict(-gain[1], -gain[0], -cost[1], -cost[0], equal_cost)
    assert other == mirrored[own]


def test_duels_are_counted_pair_by_pair(tmp_path):
    rows = [
        make_duel("minilm", "beem-a", "confidence", "drop 0", cost=(-0.2, -0.1)),
        make_duel("minilm", "beem-a", "confidence", "drop 1", cost=(0.1, 0.2)),
        make_duel("minilm", "beem-a", "confidence", cost=(-0.2, -0.1)),
        make_duel("bert", "beem-a", "confidence", gain=(0.1, 0.2), cost=(0.1, 0.2)),
        make_duel("bert", "beem-c", "patience", gain=(-0.2, -0.1)),
    ]
    write_table(pd.DataFrame(rows), tmp_path / "duels.parquet")
    numbers = TABLES["duels"].function([tmp_path / "duels.parquet"])
    assert list(numbers["verdict"]) == ["better", "worse", "undecided", "better", "worse"]
    assert TABLES["duels"].load().findings(numbers) == [
        "BEEM-A against max softmax: at an equal loss of accuracy better in 1 of 2 cases (systems × drops), worse in "
        "1, undecided in 0; at equal cost better in 1 of 2 cases, worse in 0, undecided in 1.",
        "BEEM-C against patience: at equal cost better in 0 of 1 cases, worse in 1, undecided in 0.",
    ]
    text = TABLES["duels"].load().readable(numbers)
    assert text["Gain (points)"][0] == "0.00 [−1.00, +1.00] ± 0.10"
    assert text["Difference of cost (points)"][0] == "−15.0 [−20.0, −10.0] ± 0.1"


# Claims


@pytest.mark.parametrize(
    ("speed", "loss", "verdict"),
    [
        ((1.51, 1.6), (-0.004, 0.01), "holds"),
        ((1.5, 1.6), (-0.004, 0.01), "undecided"),
        ((1.51, 1.6), (-0.005, 0.01), "undecided"),
        ((1.51, 1.6), (-0.004, 0.0), "holds"),
        ((1.51, 1.6), (-0.004, -0.001), "does not hold"),  # a small but certain loss
        ((1.4, 1.5), (-0.004, 0.01), "undecided"),
        ((1.4, 1.49), (0.01, 0.02), "does not hold"),
    ],
)
def test_verdict_on_claim_1(speed, loss, verdict):
    assert beem_claims.verdict_1(*speed, *loss) == verdict


@pytest.mark.parametrize(
    ("beaten_by", "undecided", "verdict"),
    [(0, 0, "holds"), (0, 1, "undecided"), (1, 0, "does not hold"), (1, 2, "does not hold")],
)
def test_verdict_on_claim_2(beaten_by, undecided, verdict):
    assert beem_claims.verdict_2(beaten_by, undecided) == verdict


@pytest.fixture
def judged(tmp_path):
    """Tables for both claims.

    Claim 1: fast without loss, except BEEM-C on BERT, which loses accuracy. Claim 2: holds on MiniLM, but not on BERT.
    """
    table = make_speedup(("beem-a", "beem-c", "confidence"))
    for name, half in (("loss", 0.002), ("speedup", 0.05)):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - half, table[name] + half
    lost = (table["system"] == "bert") & (table["policy"] == "beem-c") & (table["drop"] == 0)
    table.loc[lost, ["loss", "loss_low", "loss_high"]] = -0.02, -0.03, -0.01
    write_table(table, tmp_path / "speedup.csv")
    rows = [
        make_duel("minilm", "beem-a", "confidence", gain=(0.01, 0.02)),
        make_duel("minilm", "beem-a", "patience", gain=(0.001, 0.02)),
        make_duel("minilm", "beem-a", "pcee", "drop 0", gain=(-0.02, -0.01)),  # not at equal cost
        make_duel("minilm", "beem-c", "pcee", gain=(-0.02, -0.01)),  # another policy
        make_duel("bert", "beem-a", "confidence", gain=(0.01, 0.02)),
        make_duel("bert", "beem-a", "patience", gain=(-0.01, 0.02)),
        make_duel("bert", "pcee", "beem-a", gain=(0.01, 0.02)),  # reversed: PCEE is better than BEEM-A
    ]
    write_table(pd.DataFrame(rows), tmp_path / "duels.csv")
    return [tmp_path / "duels.csv", tmp_path / "speedup.csv"]


def test_beem_claims_say_what_holds(judged, tmp_path):
    TABLES["beem-claims"].write(judged, tmp_path / "claims")
    numbers = pd.read_csv(tmp_path / "claims.csv")
    assert list(zip(numbers.claim, numbers.system, numbers.policy, numbers.verdict)) == [
        (1, "minilm", "beem-c", "holds"),
        (1, "minilm", "beem-a", "holds"),
        (1, "bert", "beem-c", "does not hold"),
        (1, "bert", "beem-a", "holds"),
        (2, "minilm", "beem-a", "holds"),
        (2, "bert", "beem-a", "does not hold"),
    ]
    evidence = TABLES["beem-claims"].load().readable(numbers)["Evidence"]
    change = "change of accuracy −2.00 [−3.00, −1.00] ± 0.33 points"
    assert evidence[2] == f"speed-up 2.60 [2.55, 2.65] ± 0.00, {change}, below 0 in 50% of the seeds"
    assert evidence[4] == "more accurate than max softmax, patience"
    assert evidence[5] == "more accurate than max softmax; less accurate than PCEE; undecided against patience"
    first, second = TABLES["beem-claims"].load().findings(numbers)
    assert "holds in 3 of 4 cases, does not hold in 1, and is undecided in 0. Does not hold: BERT (BEEM-C)." in first
    assert second.endswith(
        "holds in 1 of 2 cases, does not hold in 1, and is undecided in 0. Does not hold: BERT (BEEM-A)."
    )


def test_claim_2_needs_duels(judged, tmp_path):
    write_table(make_duels().head(0), tmp_path / "none.parquet")
    files = [tmp_path / "none.parquet", judged[1]]
    result = CliRunner().invoke(
        cli, ["table", "beem-claims", *map(str, files), "--policy", "beem-c", "--out", str(tmp_path / "c")]
    )
    assert result.exit_code == 0, result.output
    numbers = pd.read_csv(tmp_path / "c.csv")
    assert list(zip(numbers.claim, numbers.policy)) == [(1, "beem-c")] * 2
    assert len(TABLES["beem-claims"].load().findings(numbers)) == 1
    assert list(TABLES["beem-claims"].load().readable(numbers)["Claim"]) == ["1", "1"]
    with pytest.raises(ValueError, match="policy 'beem' is not in the files"):
        TABLES["beem-claims"].write(files, tmp_path / "d", policies=["beem"])


def test_claims_caption_states_the_rule():
    caption = title_and_caption(beem_claims.numbers)[1]
    assert f"lies above {beem_claims.FASTER:g} and" in caption
    assert f"above −{-100 * beem_claims.NO_LOSS:g} points" in caption


# The files


def test_each_kind_is_told_from_all_others(study):
    frames = {"speedup": make_speedup(), "duels": make_duels(), "curve": make_curves(), "exits": make_exits()}
    for name, frame in frames.items():
        assert [kind for kind, (columns, _) in KINDS.items() if columns <= set(frame)] == [name]
    with pytest.raises(ValueError, match="no file of what `offramp compare --duels-out` writes among the 1 given"):
        read_tables([study / "speedup.parquet"], "speedup", "duels")


def test_the_report_shows_verdicts_of_duels(study, tmp_path):
    TABLES["duels"].write(inputs(study, "duels"), tmp_path / "duels")
    write_report([tmp_path / "duels.csv"], "Title", {}, {}, "make", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert '<td class="short verdict holds">better</td>' in page
    assert "BEEM-A against max softmax: " in page

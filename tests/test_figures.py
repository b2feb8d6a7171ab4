"""Figures show the results of the runs, and their files are the same every time."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib import pyplot
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text

from offramp import evaluate, make_policy
from offramp._io.tables import write_table
from offramp._registry import find
from offramp.calibration import reliability_diagram
from offramp.cli import cli
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.matched import at_equal, match
from offramp.comparison.promises import promises
from offramp.comparison.ranking import efficiency
from offramp.comparison.rejection import rejection
from offramp.comparison.runs import Run
from offramp.comparison.sensitivity import ALL, Setting
from offramp.comparison.sensitivity import sensitivity as measure
from offramp.evaluation.exits import exit_table, reliability_table
from offramp.records import ExitRecord
from offramp.reports import ReliabilityDisplay
from offramp.reports.catalogue import FIGURES
from offramp.reports.figures import control, error_cost, oracle_heatmap, overconfidence, reliability, sensitivity, style

SYSTEMS = {"msdnet-small": 2, "msdnet-large": 5}
SEEDS = (0, 1)
PAIR = ("msdnet-small", "msdnet-large")
# Except those of test_speedup.py, test_public_zoo.py, test_shift.py, test_cascade_reports.py, test_caption_reports.py
# and test_acceleration.py
_APART = ("speedup", "exit-histogram", "agreement", "public-zoo", "shift", "stream", "accelerations")
DRAWN = [name for name in FIGURES if name not in _APART and not name.startswith(("cascade", "caption"))]


def make_record(system, seed, split, n=150):
    """A system whose later exits are right more often, and more confident when they are right."""
    rng = np.random.default_rng([seed, len(system), split == "test"])
    l = SYSTEMS[system]
    labels = rng.integers(0, 10, n)
    right = rng.random((n, l)) < np.linspace(0.6, 0.95, l)  # (N, L)
    confidence = np.clip(rng.normal(0.55 + 0.3 * right, 0.12), 0.1, 1)
    prediction = np.where(right, labels[:, None], (labels[:, None] + 1) % 10)
    about = {
        "dataset": "made",
        "split": split,
        "system": system,
        "seed": seed,
        "exit_parameters": list(range(1, l + 1)),
    }
    return ExitRecord.from_outputs(prediction, confidence, labels, 1e6 * np.arange(1, l + 1), metadata=about)


@pytest.fixture(scope="module")
def records():
    return {
        (system, seed, split): make_record(system, seed, split)
        for system in SYSTEMS
        for seed in SEEDS
        for split in ("validation", "test")
    }


@pytest.fixture(scope="module")
def study(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for system in SYSTEMS:
        for seed in SEEDS:
            validation, test = records[system, seed, "validation"], records[system, seed, "test"]
            run = {"system": system, "seed": seed, "unit": "MAC"}
            fitted = {name: make_policy(name).fit(validation) for name in ("confidence", "oracle", "pcee", "pcee-ws")}
            curves = [evaluate(p, test, np.arange(0, 1.01, 0.05)).assign(policy=label) for label, p in fitted.items()]
            write_table(pd.concat(curves).assign(**run), folder / f"curve-{system}-{seed}.parquet")
            write_table(exit_table(test, fitted, 15).assign(**run), folder / f"exits-{system}-{seed}.parquet")
            write_table(reliability_table(validation, 15).assign(**run), folder / f"bins-{system}-{seed}.parquet")
    runs = [
        Run(system, seed, records[system, seed, "validation"], records[system, seed, "test"])
        for system in SYSTEMS
        for seed in SEEDS
    ]
    variants = [
        *(Setting("bins", f"{bins}", "pcee", make_policy("pcee", bins=bins)) for bins in (50, 10, 5)),
        *(Setting("samples", f"{n}", name, make_policy(name), n) for n in (150, 40) for name in ("pcee-ws", "pcee")),
    ]
    table = measure(runs, variants, np.arange(0, 1.01, 0.05), 2, Bootstrap.draw(150, 100, 0))
    write_table(table, folder / "sensitivity.parquet")
    names = ("confidence", "pcee")
    fitted = [replace(run, policies={name: make_policy(name).fit(run.validation) for name in names}) for run in runs]
    write_table(rejection(fitted, Bootstrap.draw(150, 100, 0)), folder / "rejection.parquet")
    write_table(promises(fitted, [0.7, 0.9], splits=1), folder / "promises.parquet")
    write_table(efficiency(match(fitted), Bootstrap.draw(150, 100, 0)), folder / "efficiency.parquet")
    records["msdnet-large", 0, "test"].save(folder / "test.safetensors")
    return folder


def inputs(name, study):
    patterns = {
        **dict.fromkeys(("error-cost", "quality-cost", "control"), "[ce]*-*.parquet"),
        "reliability": "bins-msdnet-large-*",
        **{"sensitivity": "sensitivity.parquet", "risk-coverage": "rejection.parquet", "promises": "promises.parquet"},
        "calibration-or-ranking": "efficiency.parquet",
    }
    return sorted(study.glob(patterns.get(name, "test.safetensors")), reverse=True)


def options(name):
    return {"pairs": [PAIR]} if name == "error-cost" else {}


def drawn(function, files, **options):
    with style.settings():
        return function(files, **options)


def test_straight_lines_of_quality_and_cost_are_random_choices(study):
    """So the axis of the costs is linear. The oracle is one point."""
    figure = drawn(FIGURES["quality-cost"].function, inputs("quality-cost", study), policies=["oracle", "pcee"])
    assert len(figure.axes) == len(SYSTEMS)
    for ax in figure.axes:
        assert (ax.get_xscale(), ax.get_xlim()[0]) == ("linear", 0)
        stars = [line for line in ax.lines if line.get_marker() == "*"]
        assert [len(line.get_xdata()) for line in stars] == [1]


@pytest.mark.usefixtures("plain_fonts")
@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_is_written_twice_and_always_the_same(name, study, tmp_path):
    for out in ("once", "again"):
        FIGURES[name].write(inputs(name, study), tmp_path / out / name, **options(name))
    pdf, png = (tmp_path / "once" / f"{name}.{kind}" for kind in ("pdf", "png"))
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert b"CreationDate" not in pdf.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    assert len(list((tmp_path / "once").iterdir())) == 2
    assert not pyplot.get_fignums()  # seaborn draws on the given figure, not on one of pyplot


@pytest.mark.parametrize("name", DRAWN)
def test_text_can_be_read_at_column_width(name, study):
    figure = drawn(FIGURES[name].function, inputs(name, study), **options(name))
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= style.TWO_COLUMNS
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1  # no legend is cut off
    title, caption = FIGURES[name].headline
    assert len(title) < 60 < len(caption)
    assert "test" in caption or "validation" in caption


# Error against cost


def test_error_cost_marks_the_full_models_and_draws_the_mean(study, records):
    figure = drawn(error_cost.draw, inputs("error-cost", study), pairs=[PAIR])
    (ax,) = figure.axes
    for system, marker in (("msdnet-small", "s"), ("msdnet-large", "^")):
        right = [records[system, seed, "test"].correct[:, -1].mean() for seed in SEEDS]
        (points,) = [line for line in ax.lines if line.get_marker() == marker]
        np.testing.assert_allclose(sorted(points.get_ydata()), sorted(100 * (1 - np.array(right))))
        np.testing.assert_allclose(points.get_xdata(), SYSTEMS[system])  # millions
        mean = 100 * (1 - np.mean(right))
        assert any(np.allclose(line.get_ydata(), mean) and list(line.get_xdata()) == [0, 1] for line in ax.lines)
    assert ax.get_xlabel() == "Average cost (M MACs)"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["max softmax", "PCEE", "PCEE-WS", "oracle", "small model, full", "large model, full"]


def test_error_cost_shows_every_seed_and_threshold(study):
    files = inputs("error-cost", study)
    (ax,) = drawn(error_cost.draw, files, pairs=[PAIR], policies=["confidence"]).axes
    (dots,) = [dots for dots in ax.collections if isinstance(dots, PathCollection)]
    curves = pd.concat([pd.read_parquet(path) for path in study.glob("curve-msdnet-large-*")])
    curves = curves.query("policy == 'confidence' and threshold > 0")
    expected = np.stack([curves["cost"] / 1e6, 100 * (1 - curves["accuracy"])], axis=1)
    assert sorted(map(tuple, np.round(dots.get_offsets(), 6))) == sorted(map(tuple, np.round(expected, 6)))


def made_curves(*costs_and_accuracies):
    tables = [
        pd.DataFrame({"seed": seed, "cost": costs, "accuracy": accuracies})
        for seed, (costs, accuracies) in enumerate(costs_and_accuracies)
    ]
    return pd.concat(tables, ignore_index=True)


def test_error_cost_averages_at_equal_cost(study):
    (ax,) = drawn(error_cost.draw, inputs("error-cost", study), pairs=[PAIR], policies=["confidence"]).axes
    curves = pd.concat([pd.read_parquet(path) for path in study.glob("curve-msdnet-large-*")])
    seeds = at_equal(curves.query("policy == 'confidence' and threshold > 0"), "cost", "accuracy").groupby("cost")
    (line,) = [line for line in ax.lines if to_hex(line.get_color()) == style.VERMILLION.lower()]
    np.testing.assert_allclose(line.get_xdata(), np.array(list(seeds.groups)) / 1e6)
    np.testing.assert_allclose(line.get_ydata(), 100 * (1 - seeds["accuracy"].mean()))
    (band,) = [band for band in ax.collections if isinstance(band, PolyCollection)]
    ends = band.get_paths()[0].get_extents()
    assert ends.ymax == pytest.approx(100 * (1 - seeds["accuracy"].mean() + seeds["accuracy"].std()).max())


def test_seeds_are_averaged_at_equal_cost():
    curves = at_equal(made_curves(([3.0, 1.0, 1.0], [0.8, 0.4, 0.4]), ([2.0, 6.0], [0.6, 1.0])), "cost", "accuracy", 3)
    assert list(curves) == ["seed", "cost", "accuracy"]
    assert curves["seed"].tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(curves["cost"], [2, 2.5, 3] * 2)
    np.testing.assert_allclose(curves["accuracy"], [0.6, 0.7, 0.8, 0.6, 0.65, 0.7])


@pytest.mark.parametrize("costs", [([1.0, 1.0], [3.0, 3.0]), ([1.0, 1.0], [0.5, 5.5]), ([1.0, 2.0], [2.0, 3.0])])
def test_seeds_without_common_costs_give_one_point(costs):
    curves = at_equal(made_curves(*((cost, [0.5, 0.5]) for cost in costs)), "cost", "accuracy")
    np.testing.assert_allclose(curves["cost"], np.mean([np.unique(c).mean() for c in costs]))
    np.testing.assert_allclose(curves["accuracy"], [0.5, 0.5])


def test_one_seed_keeps_its_points():
    curves = at_equal(made_curves(([3.0, 1.0, 2.0, 1.0], [0.8, 0.4, 0.5, 0.6])), "cost", "accuracy")
    np.testing.assert_allclose(curves[["cost", "accuracy"]], [[1, 0.5], [2, 0.5], [3, 0.8]])


# Control


def test_control_draws_means_and_shades_what_is_out_of_reach(study, records):
    figure = drawn(control.draw, inputs("control", study), policies=["pcee"])
    above, below = figure.axes[1], figure.axes[3]
    assert above.get_title() == "MSDNet large"
    curves = pd.concat([pd.read_parquet(path) for path in study.glob("curve-msdnet-large-*")]).query("policy == 'pcee'")
    ends = np.mean([records["msdnet-large", seed, "test"].correct[:, [0, -1]].mean(0) for seed in SEEDS], axis=0)
    curves = curves[curves.threshold.between(1.15 * ends[0] - 0.15 * ends[1], 1.15 * ends[1] - 0.15 * ends[0])]
    assert len(curves) > 10
    mean = curves.groupby("threshold").accuracy.mean()
    line = above.lines[0]
    np.testing.assert_allclose(line.get_xdata(), 100 * mean.index)
    np.testing.assert_allclose(line.get_ydata(), 100 * mean)
    error = (curves.accuracy - curves.threshold).abs().groupby(curves.threshold).mean()
    np.testing.assert_allclose(below.lines[0].get_ydata(), 100 * error)
    shades = [patch for patch in above.patches if to_hex(patch.get_facecolor()) == style.PALE.lower()]
    spans = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in shades)
    np.testing.assert_allclose(spans, [(0, 100 * ends[0]), (100 * ends[1], 100)])


def test_a_policy_of_some_systems_looks_alike_in_all(study, tmp_path):
    """A policy without a look of its own has the same look in all panels.

    Such policies use the remaining looks in turn, for the whole figure and not for each panel.
    """
    for path in study.glob("curve-*.parquet"):
        table = pd.read_parquet(path)
        names = {"pcee": "beta"} | ({"pcee-ws": "alpha"} if "large" in path.name else {})
        write_table(table[table["policy"].isin(names)].replace({"policy": names}), tmp_path / path.name)
    files = [*tmp_path.glob("curve-*"), *study.glob("exits-*")]
    looks = style.policy_styles(["alpha", "beta"])
    for figure in (
        drawn(control.draw, files, policies=["alpha", "beta"]),
        drawn(error_cost.draw, files, pairs=[PAIR[::-1], PAIR], policies=["alpha", "beta"]),
        drawn(error_cost.draw, files, pairs=[PAIR, PAIR[::-1]], policies=["alpha", "beta"]),
    ):
        assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["alpha", "beta"]
        for ax in figure.axes:
            (line,) = [line for line in ax.lines if line.get_marker() == looks["beta"].marker]
            assert line.get_color() == looks["beta"].color


# Reliability


def test_pooled_bins_are_those_of_the_pooled_samples(study, records):
    bins = pd.concat([pd.read_parquet(path) for path in inputs("reliability", study)])
    pooled = ReliabilityDisplay.from_bins(bins, exit=1).diagram
    samples = [records["msdnet-large", seed, "validation"] for seed in SEEDS]
    confidence = np.concatenate([record.confidence()[:, 1] for record in samples])
    expected = reliability_diagram(confidence, np.concatenate([record.correct[:, 1] for record in samples]))
    np.testing.assert_array_equal(pooled.count, expected.count)
    np.testing.assert_allclose(pooled.edges, expected.edges)
    np.testing.assert_allclose(pooled.accuracy, expected.accuracy)
    np.testing.assert_allclose(pooled.ece, expected.ece)
    figure = drawn(reliability.draw, inputs("reliability", study), exits=[2])
    assert figure.axes[0].get_title() == f"Exit 2 of 5: ECE {100 * expected.ece:.1f} %"
    full = expected.count > 0
    tops = [bar.get_height() for bar in figure.axes[0].containers[0]]
    np.testing.assert_allclose(tops, expected.accuracy[full])
    np.testing.assert_allclose([bar.get_height() for bar in figure.axes[1].patches], 100 * expected.count / 300)


def test_reliability_shows_first_middle_and_last_exit(study):
    figure = drawn(reliability.draw, inputs("reliability", study))
    assert [ax.get_title()[:11] for ax in figure.axes[:3]] == ["Exit 1 of 5", "Exit 3 of 5", "Exit 5 of 5"]


# Overconfidence


def made_record(confidence, correct):
    correct = np.array(correct)
    return ExitRecord.from_outputs(
        np.where(correct, 0, 1), np.array(confidence), np.zeros(len(correct), int), [1.0, 2.0, 3.0][: correct.shape[1]]
    )


@pytest.mark.parametrize(
    ("confidence", "correct", "sample", "reason"),
    [
        # The most confident mistake (sample 0) is not corrected. That of sample 2 is more confident than sample 1's.
        (
            [[0.99, 0.9, 0.9], [0.8, 0.9, 0.9], [0.2, 0.85, 0.3], [0.97, 0.9, 0.9]],
            [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]],
            2,
            "layer 2 sure and wrong, the last one right",
        ),
        ([[0.75, 0.3], [0.9, 0.9]], [[0, 1], [1, 1]], 0, "layer 1 sure and wrong"),
        ([[0.7, 0.9], [0.74, 0.9], [0.9, 0.9]], [[0, 1], [0, 1], [1, 1]], 1, "no layer misleads at 0.75"),
        ([[0.9, 0.1], [0.4, 0.9]], [[1, 0], [1, 1]], 1, "no early mistakes"),
    ],
)
def test_overconfidence_picks_by_its_rule(confidence, correct, sample, reason):
    chosen, said = overconfidence.choose_sample(made_record(confidence, correct))
    assert chosen == sample
    assert said.startswith(reason)


def test_overconfidence_tells_right_from_wrong_twice(study, records):
    figure = drawn(overconfidence.draw, [study / "test.safetensors"])
    record = records["msdnet-large", 0, "test"]
    sample, reason = overconfidence.choose_sample(record)
    (ax,) = figure.axes
    bars = sorted((bar for bars in ax.containers for bar in bars), key=lambda bar: bar.get_x())
    np.testing.assert_allclose([bar.get_height() for bar in bars], record.confidence()[sample])
    for bar, right, symbol in zip(
        bars, record.correct[sample], sorted(ax.texts, key=lambda text: text.get_position()[0])
    ):
        assert to_hex(bar.get_facecolor()) == (style.BLUE if right else style.VERMILLION).lower()
        assert bool(bar.get_hatch()) == (not right)
        assert symbol.get_text() == ("✓" if right else "✗")
    assert reason in ax.get_title()
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels[0] == f"1\n{100 * record.correct[:, 0].mean():.0f}%"


# Oracle


def test_oracle_heatmap_shows_the_layers_used(study, records):
    used = 1 + (
        records["msdnet-large", 0, "test"].prediction == records["msdnet-large", 0, "test"].prediction[:, -1:]
    ).argmax(1)

    def columns(seed):
        (ax,) = drawn(oracle_heatmap.draw, [study / "test.safetensors"], seed=seed).axes
        (mesh,) = ax.collections
        assert ax.get_ylim() == (0, 5)  # the first exit is at the bottom
        cells = mesh.cmap(mesh.norm(mesh.get_array()))[..., :3]  # (L, 64, 3)
        assert (
            np.isclose(cells, to_rgb(style.BLUE)).all(2).sum() + np.isclose(cells, to_rgb(style.PALE)).all(2).sum()
            == 320
        )
        return np.isclose(cells, to_rgb(style.BLUE)).all(2)

    for seed in (0, 5):
        dark = columns(seed)
        assert dark.shape == (5, 64)
        chosen = np.random.default_rng(seed).choice(150, 64, replace=False)
        np.testing.assert_array_equal(dark.sum(0), np.sort(used[chosen]))
        assert dark[0].all()
    assert not np.array_equal(columns(0), columns(5))


def test_oracle_heatmap_of_few_samples(tmp_path):
    made_record([[0.5, 0.5, 0.5]] * 3, [[1, 1, 1], [0, 0, 1], [0, 1, 1]]).save(tmp_path / "r.safetensors")
    (ax,) = drawn(oracle_heatmap.draw, [tmp_path / "r.safetensors"]).axes
    assert ax.get_xlabel() == "3 random test samples"
    assert ax.get_title() == "system: 2.0 of 3 used on average (2.0 on all samples)"


# Sensitivity


def test_sensitivity_draws_means_intervals_systems_and_the_reference(study):
    figure = drawn(sensitivity.draw, inputs("sensitivity", study))
    table = pd.read_parquet(study / "sensitivity.parquet")
    pooled, systems = table[table["system"] == ALL], table[table["system"] != ALL]
    grid = np.array(figure.axes).reshape(2, 4)  # factors × numbers
    for (factor, settings), across in zip({"bins": ["50", "10", "5"], "samples": ["150", "40"]}.items(), grid):
        assert [label.get_text() for label in across[0].get_yticklabels()] == settings
        assert across[0].get_title(loc="left") == factor.capitalize()
        for number, ax in zip(("error", "worst", "short", "cost_excess"), across):
            for label, marker in (("pcee", "D"), ("pcee-ws", "P"))[: 1 if factor == "bins" else 2]:
                rows, rows_of_systems = (
                    part[(part["factor"] == factor) & (part["policy"] == label)] for part in (pooled, systems)
                )
                (means,) = [line for line in ax.lines if line.get_marker() == marker]
                color = means.get_color()
                np.testing.assert_allclose(means.get_xdata(), 100 * rows[number])
                np.testing.assert_array_equal(np.rint(means.get_ydata()), range(len(settings)))
                (dots,) = [line for line in ax.lines if line.get_marker() == "." and line.get_color() == color]
                np.testing.assert_allclose(np.sort(dots.get_xdata()), np.sort(100 * rows_of_systems[number]))
                (bars,) = [bars for bars in ax.collections if to_hex(bars.get_color()[0]) == color.lower()]
                ends = np.array([segment[:, 0] for segment in bars.get_segments()])
                np.testing.assert_allclose(ends, 100 * rows[[f"{number}_low", f"{number}_high"]])
                (line,) = [x for x in ax.lines if x.get_linestyle() == "--" and x.get_color() == color]
                np.testing.assert_allclose(line.get_xdata(), 100 * rows[number].iloc[0])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["PCEE", "PCEE-WS", "each system", "reference"]


# Style


def test_policies_always_look_the_same_and_never_alike():
    known = ["confidence", "margin", "entropy", "temperature", "pcee", "pcee-ws", "oracle", "random"]
    styles = style.policy_styles([*known, "zeta", "alpha", "beem-c"])
    assert len({(s.color, s.marker) for s in styles.values()}) == len(styles)
    assert style.policy_styles(["pcee", "alpha"])["pcee"] == styles["pcee"]
    assert styles == style.policy_styles(["beem-c", "alpha", "zeta", *reversed(known)])
    assert styles["pcee-ws"].name == "PCEE-WS"


# What is refused


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("error", {}, "unknown figure 'error': expected one of .*error-cost, quality-cost, control"),
        ("error-cost", {}, "figure error-cost: expected the option 'pairs'"),
        ("error-cost", {"pairs": [("msdnet-small", "vit")]}, "pair msdnet-small, vit: no run of vit; the files have"),
        ("error-cost", {"pairs": [PAIR], "policies": ["beem"]}, "policy 'beem' is not in the files; they have confide"),
        ("control", {"pairs": [PAIR]}, "figure control: unknown option 'pairs': expected some of policies"),
        ("reliability", {"exits": [6]}, "exit 6: msdnet-large has exits 1 to 5"),
    ],
)
def test_wrong_names_and_options_are_named(name, options, message, study, tmp_path):
    with pytest.raises(ValueError, match=message):
        find(FIGURES, "figure", name).write(inputs(name, study), tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_other_or_missing_inputs_are_named(study, tmp_path):
    curves, exits = sorted(study.glob("curve-*")), sorted(study.glob("exits-*"))
    with pytest.raises(ValueError, match="no file of what `offramp evaluate --exits` writes among the 4 given"):
        FIGURES["control"].write(curves, tmp_path / "out")
    with pytest.raises(ValueError, match="control: no exits of msdnet-small"):
        FIGURES["control"].write(curves + exits[:2], tmp_path / "out")
    with pytest.raises(ValueError, match="reliability draws one system, got msdnet-large, msdnet-small"):
        FIGURES["reliability"].write(sorted(study.glob("bins-*")), tmp_path / "out")
    with pytest.raises(ValueError, match="oracle-heatmap draws one test record, got 2 files"):
        FIGURES["oracle-heatmap"].write([study / "test.safetensors"] * 2, tmp_path / "out")
    bins = pd.read_parquet(study / "bins-msdnet-large-0.parquet")
    write_table(bins.assign(seed=7, upper=bins.upper + 0.01), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="expected the same for every seed"):
        FIGURES["reliability"].write(
            [study / "bins-msdnet-large-0.parquet", tmp_path / "other.parquet"], tmp_path / "out"
        )
    assert not list(tmp_path.glob("out*"))


def test_the_command_draws_too(study, tmp_path):
    runner = CliRunner()
    files = list(map(str, inputs("error-cost", study)))
    result = runner.invoke(cli, ["figure", "error-cost", *files, "--pair", *PAIR, "--out", str(tmp_path / "a.b")])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b.pdf", "a.b.png"]
    FIGURES["error-cost"].write(inputs("error-cost", study), tmp_path / "c", pairs=[PAIR])
    assert (tmp_path / "a.b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    record = str(study / "test.safetensors")
    result = runner.invoke(cli, ["figure", "oracle-heatmap", record, "--seed", "0", "--out", str(tmp_path / "d")])
    assert result.exit_code == 0, result.output
    assert runner.invoke(cli, ["figure", "control", str(tmp_path / "none"), "--out", "x"]).exit_code == 2
    assert all(name in runner.invoke(cli, ["figure", "--help"]).output for name in FIGURES)


def test_the_library_stays_light():
    heavy = "{'matplotlib', 'seaborn', 'jinja2', 'tabulate', 'torch'}"
    code = f"import sys, offramp.cli, offramp.reports; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"

"""Tables contain the numbers of the runs, their text shows the same numbers, and verdicts change at their bounds."""

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from offramp import make_policy
from offramp._io.tables import write_table
from offramp._registry import find
from offramp.cli import cli
from offramp.comparison import matched
from offramp.comparison.bootstrap import Bootstrap
from offramp.comparison.claims import at_targets, control, pairs
from offramp.comparison.promises import promises
from offramp.comparison.ranking import efficiency
from offramp.comparison.rejection import rejection
from offramp.comparison.runs import Run
from offramp.comparison.samples import learning_curve
from offramp.comparison.sensitivity import ALL, Setting, sensitivity
from offramp.evaluation.exits import exit_table
from offramp.records import ExitRecord
from offramp.reports.catalogue import TABLES
from offramp.reports.labels import in_order, policy_name, prefixed, system_name, title_and_caption
from offramp.reports.tables import claims
from offramp.reports.tables.writing import cell, is_numeric

SYSTEMS = {"msdnet-small": 2, "msdnet-large": 4}
# Except the tables in the tests of speed-up, public models, cascade reports, stored outputs, timing, shift, captions
# and acceleration
_APART = ["beem-claims", "duels", "speedup", "per-exit", "public-zoo"]
_APART += ["cascade-claims", "reductions", "cascade-variants", "replacements", "models", "seconds", "resplits", "times"]
_APART += ["shift", "shift-claim", "stream", "accelerations"]
WRITTEN = [name for name in TABLES if name not in _APART and not name.startswith("caption")]


VARIANTS = [
    Setting("bins", "50", "pcee", make_policy("pcee")),
    Setting("bins", "10", "pcee", make_policy("pcee", bins=10)),
    *(Setting("samples", "all", name, make_policy(name)) for name in ("pcee", "pcee-ws")),
    *(Setting("samples", "60", name, make_policy(name), 60) for name in ("pcee", "pcee-ws")),
]


def make_record(system, seed, split, n=240):
    """A system whose later exits are right more often, and more confident when they are right."""
    # The labels depend only on the split, the predictions also on system and seed
    rng = np.random.default_rng([seed, len(system), split == "test"])
    l = SYSTEMS[system]
    labels = np.random.default_rng(split == "test").integers(0, 10, n)
    skill = np.linspace(0.6, 0.95, l)
    right = rng.random((n, l)) < skill  # (N, L)
    confidence = np.clip(rng.normal(0.55 + 0.3 * right, 0.12), 0.1, 1)
    prediction = np.where(right, labels[:, None], (labels[:, None] + 1) % 10)
    about = {"dataset": "made", "split": split, "system": system, "seed": seed, "classes": 10, "unit": "MAC"}
    about["exit_parameters"] = [1000 * (i + 1) for i in range(l)]
    return ExitRecord.from_outputs(prediction, confidence, labels, 1e6 * np.arange(1, l + 1), metadata=about)


@pytest.fixture(scope="module")
def runs():
    made = []
    for system in SYSTEMS:
        for seed in (0, 1):
            validation, test = make_record(system, seed, "validation"), make_record(system, seed, "test")
            fitted = {name: make_policy(name).fit(validation) for name in ("pcee-ws", "oracle", "confidence", "pcee")}
            made.append(Run(system, seed, validation, test, fitted))
    return made


@pytest.fixture(scope="module")
def study(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    bootstrap = Bootstrap.draw(240, 100, seed=0)
    write_table(at_targets(runs, [0.8, 0.9], bootstrap), folder / "targets.parquet")
    write_table(pairs(runs, [tuple(SYSTEMS)], bootstrap), folder / "pairs.parquet")
    grid = np.arange(0.5, 1, 0.05)
    write_table(control(runs, grid, "confidence", bootstrap), folder / "control.parquet")
    write_table(rejection(runs, bootstrap), folder / "rejection.parquet")
    write_table(promises(runs, [0.7, 0.9], splits=1), folder / "promises.parquet")
    write_table(efficiency(matched.match(runs), bootstrap), folder / "efficiency.parquet")
    write_table(sensitivity(runs, VARIANTS, grid, 2, bootstrap), folder / "sensitivity.parquet")
    curve = learning_curve(runs, [("pcee", "confidence")], [50], 1, bootstrap)
    write_table(curve, folder / "learning-curve.parquet")
    for run in runs:
        table = exit_table(run.test, run.policies, 15)
        table.insert(0, "system", run.system)
        table.insert(1, "seed", run.seed)
        write_table(table, folder / f"exits-{run.system}-{run.seed}.parquet")
    return folder


def inputs(name, study):
    exits = sorted(study.glob("exits-*.parquet"), reverse=True)
    if name in ("exits", "calibration"):
        return exits if name == "exits" else [*exits, study / "control.parquet"]
    kinds = {"claims": ["control", "pairs"], "equal-cost": ["pairs"], "equal-accuracy": ["pairs"]}
    kinds |= {"coverage": ["rejection"], "calibration-or-ranking": ["efficiency"]}
    return [study / f"{kind}.parquet" for kind in kinds.get(name, [name])]


@pytest.mark.parametrize("name", WRITTEN)
def test_every_table_is_written_three_ways_and_always_the_same(name, study, tmp_path):
    for out in ("once", "again"):
        TABLES[name].write(inputs(name, study), tmp_path / out / name)
    assert sorted(path.name for path in (tmp_path / "once").iterdir()) == [
        f"{name}.{end}" for end in ("csv", "md", "tex")
    ]
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    rows = len(TABLES[name].load().readable(pd.read_csv(tmp_path / "once" / f"{name}.csv")))
    assert rows > 0
    tex = (tmp_path / "once" / f"{name}.tex").read_text()
    assert tex.isascii()
    assert tex.count(r"\\") == rows + 1
    lines = (tmp_path / "once" / f"{name}.md").read_text().splitlines()
    assert sum(line.startswith("|") for line in lines) == rows + 2
    title, caption = TABLES[name].headline
    assert lines[-1] == f"{title}. {caption}"
    assert len(caption) > 80


def test_numbers_keep_full_precision(study, tmp_path):
    TABLES["equal-cost"].write([study / "pairs.parquet"], tmp_path / "t")
    source = pd.read_parquet(study / "pairs.parquet").query("match == 'equal cost'").set_index("policy")
    written = pd.read_csv(tmp_path / "t.csv").set_index("policy")
    np.testing.assert_allclose(written.gain, source.gain[written.index], rtol=1e-14)
    assert list(written.index) == ["confidence", "pcee", "pcee-ws", "oracle"]
    assert set(pd.read_csv(tmp_path / "t.csv").match) == {"equal cost"}


def test_exits_are_means_over_seeds(runs, study, tmp_path):
    TABLES["exits"].write(inputs("exits", study), tmp_path / "exits")
    table = pd.read_csv(tmp_path / "exits.csv").set_index(["system", "exit"])
    right = np.stack([run.test.correct.mean(0) for run in runs if run.system == "msdnet-large"])  # (S, L)
    of_large = table.loc["msdnet-large"]
    np.testing.assert_allclose(of_large.accuracy, right.mean(0))
    np.testing.assert_allclose(of_large.accuracy_sd, np.abs(right[0] - right[1]) / np.sqrt(2))
    np.testing.assert_allclose(of_large.cost, [1e6, 2e6, 3e6, 4e6])
    assert (of_large.seeds == 2).all()
    row = next(line for line in (tmp_path / "exits.md").read_text().splitlines() if line.startswith("| MSDNet large"))
    assert f" {100 * right.mean(0)[0]:.1f} ± {100 * right[:, 0].std(ddof=1):.1f} " in row
    assert " 1.00 " in row
    surer = [
        run.test.confidence()[:, 0].mean() - run.test.correct[:, 0].mean() for run in runs if "large" in run.system
    ]
    assert f" {100 * np.mean(surer):+.1f} ±".replace("-", "−") in row


def test_control_marks_the_baseline_and_gives_points(study, tmp_path):
    TABLES["control"].write(inputs("control", study), tmp_path / "c")
    numbers = pd.read_csv(tmp_path / "c.csv")
    text = TABLES["control"].load().readable(numbers)
    assert list(text.Policy) == ["max softmax", "PCEE", "PCEE-WS"] * 2
    assert list(text["Excess over baseline (points)"] == "baseline") == [True, False, False] * 2
    interval = [100 * numbers[f"error{end}"][0] for end in ("", "_low", "_high", "_sd")]
    assert text["Mean error (points)"][0] == "{:.1f} [{:.1f}, {:.1f}] ± {:.1f}".format(*interval)


def test_calibration_sets_ece_beside_control_and_cost(runs, study, tmp_path):
    TABLES["calibration"].write(inputs("calibration", study), tmp_path / "c")
    numbers = pd.read_csv(tmp_path / "c.csv")
    assert list(numbers.policy) == ["confidence", "pcee", "pcee-ws"] * 2
    control = pd.read_parquet(study / "control.parquet").set_index(["system", "policy"])
    table = numbers.set_index(["system", "policy"])
    for system, exits in SYSTEMS.items():
        for label in ("confidence", "pcee", "pcee-ws"):
            of_system = [run for run in runs if run.system == system]
            ece = np.array([exit_table(run.test, run.policies, 15)[f"ece_{label}"] for run in of_system])  # (S, L)
            row = table.loc[system, label]
            np.testing.assert_allclose([row.ece, row.ece_sd], [ece.mean(), ece.mean(1).std(ddof=1)])
            np.testing.assert_allclose([row[f"ece_{i + 1}"] for i in range(exits)], ece.mean(0))
            np.testing.assert_allclose([row[f"ece_{i + 1}_sd"] for i in range(exits)], ece.std(0, ddof=1))
            assert row[[f"ece_{i + 1}" for i in range(exits, 4)]].isna().all()
            assert (row.error, row.cost_excess) == tuple(control.loc[(system, label), ["error", "cost_excess"]])
    text = TABLES["calibration"].load().readable(numbers)
    assert list(text["Change of cost (points)"] == "baseline") == [True, False, False] * 2
    assert [cells.count(", ") for cells in text["ECE at exits 1, 2, … (%)"]] == [1] * 3 + [3] * 3
    assert text["Cost (%)"][0].startswith(f"{100 * numbers.cost[0]:.1f} [")
    assert text["Mean ECE (%)"][1] == f"{100 * numbers.ece[1]:.1f} ± {100 * numbers.ece_sd[1]:.1f}"


def test_calibration_shows_what_has_both(study, tmp_path):
    """Policies without a calibration error or without control are left out."""
    exits = pd.concat([pd.read_parquet(path) for path in inputs("exits", study)])
    write_table(exits.drop(columns="ece_pcee").assign(ece_other=0.5), tmp_path / "exits.parquet")
    TABLES["calibration"].write([tmp_path / "exits.parquet", study / "control.parquet"], tmp_path / "c")
    assert list(pd.read_csv(tmp_path / "c.csv").policy) == ["confidence", "pcee-ws"] * 2


def test_sensitivity_keeps_all_numbers_and_shows_the_means_over_systems(study, tmp_path):
    TABLES["sensitivity"].write([study / "sensitivity.parquet"], tmp_path / "s")
    numbers = pd.read_csv(tmp_path / "s.csv", dtype={"setting": str})
    pd.testing.assert_frame_equal(numbers, pd.read_parquet(study / "sensitivity.parquet"))
    text = TABLES["sensitivity"].load().readable(pd.read_csv(tmp_path / "s.csv"))
    assert list(text.Factor) == ["bins"] * 2 + ["samples"] * 4
    assert list(text.Setting) == ["50", "10", "all", "all", "60", "60"]
    assert list(text.Policy) == ["PCEE", "PCEE", "PCEE", "PCEE-WS", "PCEE", "PCEE-WS"]
    for column in ("Change of error (points)", "Change of cost (points)", "Change of accuracy (points)"):
        assert list(text[column] == "reference") == [True, False, True, True, False, False]
    row = numbers[numbers["system"] == ALL].iloc[4]
    error = [100 * row[f"error{end}"] for end in ("", "_low", "_high", "_sd")]
    assert text["Mean error (points)"][4] == "{:.2f} [{:.2f}, {:.2f}] ± {:.2f}".format(*error)
    change = [100 * row[f"excess{end}"] for end in ("", "_low", "_high")]
    assert text["Change of error (points)"][4] == "{:+.2f} [{:+.2f}, {:+.2f}]".format(*change).replace("-", "−")
    of_systems = 100 * numbers[numbers["system"] != ALL].query("setting == '60' and policy == 'pcee'").excess
    ends = f"{of_systems.min():+.2f} … {of_systems.max():+.2f}".replace("-", "−")
    assert list(text["Among systems"]) == ["", text["Among systems"][1], "", "", ends, text["Among systems"][5]]


def test_targets_list_both_choices(study, tmp_path):
    TABLES["targets"].write(inputs("targets", study), tmp_path / "t")
    text = TABLES["targets"].load().readable(pd.read_csv(tmp_path / "t.csv"))
    assert len(text) == 2 * 2 * (3 + 4)
    assert set(text.Threshold[text.Policy == "oracle"]) == {"on validation"}
    assert set(text.Threshold[text.Policy == "PCEE"]) == {"on validation", "δ itself"}
    assert set(text["δ (%)"]) == {"80", "90"}


# Claims


@pytest.mark.parametrize(
    ("low", "high", "ratio", "verdict"),
    [
        (0.001, 0.02, 1.0, "holds"),
        (0.001, 0.02, claims.OVER_BUDGET, "holds"),
        (0.001, 0.02, claims.OVER_BUDGET + 1e-9, "undecided"),
        (0.0, 0.02, 0.5, "undecided"),
        (-0.01, 0.0, 0.5, "undecided"),
        (-0.01, -0.001, 0.5, "undecided"),  # cheaper and less accurate: the costs were not equal
        (-0.01, -0.001, claims.UNDERSPENT, "does not hold"),
        (-0.01, -0.001, 1.5, "does not hold"),
    ],
)
def test_verdict_on_claim_1(low, high, ratio, verdict):
    assert claims.verdict_1(low, high, ratio) == verdict


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.02, -0.001, "holds"),
        (-0.02, 0.0, "undecided"),
        (0.0, 0.02, "undecided"),
        (0.001, 0.02, "does not hold"),
    ],
)
def test_verdict_on_claim_2(low, high, verdict):
    assert claims.verdict_2(low, high) == verdict


def numbers_with(name, value, low, high):
    return {name: value, f"{name}_sd": 0.001, f"{name}_low": low, f"{name}_high": high}


@pytest.fixture
def made_up(tmp_path):
    """Tables for both claims.

    Claim 1 holds for pcee, slightly over the budget, but not for pcee-ws. Claim 2 holds for pcee-ws, but not for pcee.
    """
    pairs, control = [], []
    for policy, gain, ratio in (("pcee", 0.02, 1.01), ("pcee-ws", -0.03, 0.9), ("confidence", 0.5, 1)):
        for match in ("equal cost", "equal accuracy"):
            pairs.append(
                {"small": "msdnet-small", "large": "msdnet-large", "policy": policy, "match": match}
                | numbers_with("gain", gain if match == "equal cost" else 0.5, gain - 0.01, gain + 0.01)
                | numbers_with("cost_ratio", ratio, ratio - 0.1, ratio + 0.1)
            )
    for policy, excess in (("pcee", 0.04), ("pcee-ws", -0.05), ("confidence", 0)):
        control.append(
            {"system": "vit", "policy": policy, "baseline": "confidence", "worst": 0.2, "short": 0.5 + excess}
            | numbers_with("error", 0.1 + excess, 0, 0.2)
            | numbers_with("excess", excess, excess - 0.01, excess + 0.01)
        )
    write_table(pd.DataFrame(pairs), tmp_path / "pairs.csv")
    write_table(pd.DataFrame(control), tmp_path / "control.csv")
    return [tmp_path / "pairs.csv", tmp_path / "control.csv"]


def test_claims_say_what_holds_and_what_does_not(made_up, tmp_path):
    TABLES["claims"].write(made_up, tmp_path / "claims")
    numbers = pd.read_csv(tmp_path / "claims.csv")
    assert list(zip(numbers.claim, numbers.policy, numbers.verdict)) == [
        (1, "pcee", "holds"),
        (1, "pcee-ws", "does not hold"),
        (2, "pcee", "does not hold"),
        (2, "pcee-ws", "holds"),
    ]
    np.testing.assert_allclose(numbers.estimate, [0.02, -0.03, 0.04, -0.05])
    text = TABLES["claims"].load().readable(numbers)
    gain, ratio = "gain +2.00 [+1.00, +3.00] ± 0.10 points", "cost ratio 1.010 [0.910, 1.110] ± 0.001"
    assert text.Evidence[0] == f"{gain} at {ratio}; test cost 1.0 % over the budget"
    assert "budget" not in text.Evidence[1]
    assert text.Evidence[2] == (
        "error 14.0 points, excess over the baseline +4.00 [+3.00, +5.00] ± 0.10; "
        "falls short of 54% of δ, the baseline of 50%"
    )
    assert list(text.Where) == ["MSDNet small → MSDNet large"] * 2 + ["ViT"] * 2
    first, second = TABLES["claims"].load().findings(numbers)
    assert "holds in 1 of 2 cases, does not hold in 1, and is undecided in 0." in first
    assert first.endswith("Does not hold: MSDNet small → MSDNet large (PCEE-WS).")
    assert second.endswith("Does not hold: ViT (PCEE).")
    assert (tmp_path / "claims.md").read_text().startswith(first)


def test_claims_caption_states_the_rule():
    caption = title_and_caption(claims.numbers)[1]
    assert f"at most {claims.OVER_BUDGET:g} of" in caption
    assert f"at least {claims.UNDERSPENT:g} of the budget" in caption


def test_claims_of_another_policy(made_up, tmp_path):
    result = CliRunner().invoke(
        cli, ["table", "claims", *map(str, made_up), "--policy", "confidence", "--out", str(tmp_path / "c")]
    )
    assert result.exit_code == 0, result.output
    assert list(pd.read_csv(tmp_path / "c.csv").verdict) == ["holds", "undecided"]
    with pytest.raises(ValueError, match="policy 'beem' is not in the files; they have confidence, pcee, pcee-ws"):
        TABLES["claims"].write(made_up, tmp_path / "d", policies=["beem"])


# Text


@pytest.mark.parametrize(
    ("numbers", "options", "text"),
    [
        ((97.04, 95.95, 98.1, 0.68), {"digits": 1}, "97.0 [96.0, 98.1] ± 0.7"),
        ((-1.26, -3.0, 0.9, np.nan), {"digits": 1, "sign": "+"}, "−1.3 [−3.0, +0.9]"),
        ((-1e-17, -0.001, 0.04, 0.0), {"digits": 1, "sign": "+"}, "0.0 [0.0, 0.0] ± 0.0"),
        ((2.0,), {"digits": 0}, "2"),
        ((np.nan,), {"digits": 2}, "–"),
    ],
)
def test_cell(numbers, options, text):
    assert cell(*numbers, **options) == text
    assert is_numeric([text])


def test_text_is_no_number():
    assert not is_numeric(["1.0", "90 percent"])
    assert not is_numeric(["1: a claim"])


def test_long_tables_break_over_pages_and_special_characters_are_escaped(study, tmp_path):
    table = pd.concat([pd.read_parquet(study / "targets.parquet")] * 2, ignore_index=True)
    table["policy"] = "a_b & 100%"
    write_table(table, tmp_path / "targets.parquet")
    TABLES["targets"].write([tmp_path / "targets.parquet"], tmp_path / "t")
    tex = (tmp_path / "t.tex").read_text()
    assert r"\begin{longtable}" in tex
    assert r"\usepackage{longtable}" in tex
    assert r"a\_b \& 100\%" in tex
    TABLES["targets"].write([study / "targets.parquet"], tmp_path / "short")
    assert r"\begin{tabular}" in (tmp_path / "short.tex").read_text()


def test_names_in_print():
    assert [policy_name(label) for label in ("pcee-ws", "confidence", "mine")] == ["PCEE-WS", "max softmax", "mine"]
    assert [system_name(label) for label in ("msdnet-small", "vit", "my-net")] == ["MSDNet small", "ViT", "my net"]
    assert in_order(["zeta", "oracle", "alpha", "pcee", "pcee"]) == ["pcee", "oracle", "alpha", "zeta"]
    assert prefixed([5e5, 2e6, np.nan]) == (1e6, "M ")
    assert prefixed([7e11, 5e15]) == (1e15, "P ")
    assert prefixed([]) == (1.0, "")


# Invalid input


def test_unknown_names_and_options_list_the_known(study, tmp_path):
    files = [study / "control.parquet"]
    known = "claims, beem-claims, cascade-claims, shift-claim, duels, speedup, times, per-exit, equal-cost"
    with pytest.raises(ValueError, match=f"unknown table 'contrl': expected one of .*{known}"):
        find(TABLES, "table", "contrl")
    with pytest.raises(ValueError, match="table control: unknown option 'policies': expected none"):
        TABLES["control"].write(files, tmp_path / "t", policies=["pcee"])
    assert not list(tmp_path.iterdir())
    assert all(name in CliRunner().invoke(cli, ["table", "--help"]).output for name in TABLES)


def test_other_or_missing_inputs_are_named(study, tmp_path):
    with pytest.raises(ValueError, match=r"pairs\.parquet: expected what `offramp compare --control-out` writes"):
        TABLES["control"].write([study / "pairs.parquet"], tmp_path / "t")
    with pytest.raises(ValueError, match="no file of what `offramp compare --control-out` writes among the 1 given"):
        TABLES["claims"].write([study / "pairs.parquet"], tmp_path / "t")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"broken\.parquet: not a readable table"):
        TABLES["control"].write([tmp_path / "broken.parquet"], tmp_path / "t")
    nameless = pd.read_parquet(inputs("exits", study)[0]).assign(system=None)
    write_table(nameless, tmp_path / "exits.parquet")
    with pytest.raises(ValueError, match=r"exits\.parquet: system is empty"):
        TABLES["exits"].write([tmp_path / "exits.parquet"], tmp_path / "t")
    assert not list(tmp_path.glob("t.*"))

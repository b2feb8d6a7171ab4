"""The linked charts of the report page, in a real browser, and the points that they show."""

import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from offramp import ExitRecord, evaluate, make_policy
from offramp.cli import cli
from offramp.comparison.points import briefest, thinned
from offramp.comparison.runs import Run
from offramp.evaluation import accuracy_without_loss, choose_threshold, risk_coverage
from offramp.policies import save_policies
from offramp.reports.explorer import found, recommended, to_use, without_loss
from offramp.reports.page import write_report

POLICIES = ("confidence", "pcee-ws", "patience", "oracle")


def make_record(n, seed, system, split):
    """A record whose later exits are right more often, and more confident when they are right."""
    labels = np.random.default_rng(n).integers(0, 4, n)
    rng = np.random.default_rng([seed, n, len(system)])
    sharpness = np.array([1.0, 2.0, 4.0])[:, None]
    logits = rng.normal(size=(n, 3, 4)) + sharpness * np.eye(4)[labels][:, None]
    about = {"system": system, "seed": seed, "split": split, "unit": "MAC"}
    return ExitRecord(logits, labels, [1e6, 2e6, 4e6], metadata=about)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Records and policies of two systems with two seeds, their points from the command, and their runs."""
    folder = tmp_path_factory.mktemp("page")
    runs, files = [], []
    for system in ("net", "big net"):
        for seed in (0, 1):
            validation, test = (
                make_record(n, seed, system, split) for n, split in ((300, "validation"), (400, "test"))
            )
            fitted = {label: make_policy(label).fit(validation) for label in POLICIES}
            paths = {
                part: folder / f"{system}-s{seed}-{part}.safetensors" for part in ("validation", "test", "policies")
            }
            validation.save(paths["validation"])
            test.save(paths["test"])
            save_policies(fitted, paths["policies"], validation.metadata)
            files += paths.values()
            runs.append(Run(system, seed, validation, test, fitted, {part: str(path) for part, path in paths.items()}))
    out = folder / "points.parquet"
    line = ["points", *map(str, files), "--weights", "train/{system}-s{seed}.safetensors", "--resamples", "200"]
    result = CliRunner().invoke(cli, [*line, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return folder, runs, pd.read_parquet(out)


def rows_of(table, run, label):
    return table[(table["system"] == run.system) & (table["seed"] == run.seed) & (table["policy"] == label)]


def test_points_are_those_of_evaluate(study):
    _, runs, table = study
    for run in runs[::3]:
        for label, policy in run.policies.items():
            rows = rows_of(table, run, label)
            for record, prefix in ((run.test, ""), (run.choosing, "validation_")):
                expected = evaluate(policy, record, rows["threshold"])
                for name in ("accuracy", "cost") + (("exit_1", "exit_2", "exit_3") if not prefix else ()):
                    assert np.allclose(rows[f"{prefix}{name}"], expected[name], rtol=1e-12), (label, name)
            assert (rows["accuracy_low"] <= rows["accuracy"]).all()
            assert (rows["accuracy"] <= rows["accuracy_high"]).all()
            enough = rows[rows["validation_accuracy"] >= accuracy_without_loss(run.choosing)]
            best = choose_threshold(policy, run.choosing, accuracy=accuracy_without_loss(run.choosing))
            chosen = evaluate(policy, run.choosing, [best])["cost"][0]
            assert enough["validation_cost"].min() == pytest.approx(chosen)


def test_details_of_a_point_are_sums_over_its_samples(study):
    _, runs, table = study
    run, label = runs[0], "confidence"
    row = rows_of(table, run, label).iloc[10]
    confidence = run.test.confidence().astype(np.float64)  # (N, L)
    exits = np.where((confidence >= row["threshold"]).any(axis=1), (confidence >= row["threshold"]).argmax(axis=1), 2)
    right, sure = (values[np.arange(400), exits] for values in (run.test.correct, confidence))  # (N,) each
    for i in range(3):
        assert row[f"exit_accuracy_{i + 1}"] == pytest.approx(right[exits == i].mean())
        assert row[f"exit_estimate_{i + 1}"] == pytest.approx(sure[exits == i].mean())
    there = (sure >= 0.8) & (sure < 0.9)
    assert row["bin_share_9"] == there.mean() > 0
    assert row["bin_accuracy_9"] == pytest.approx(right[there].mean())
    curve = risk_coverage(run.policies[label], run.test, row["threshold"])
    assert row["coverage_40"] == pytest.approx(curve.accuracy_at(0.4))
    assert table["weights"].iloc[-1] == "'train/big net-s1.safetensors'"
    assert row["weights"] == "train/net-s0.safetensors"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=80), st.integers(4, 20))
def test_a_thinned_curve_keeps_its_ends_and_its_highest_corner(y, at_most):
    x, y = np.arange(len(y), dtype=float), np.array(y)
    kept = thinned(x, y, at_most)
    assert (kept[0], kept[-1], len(kept) <= max(at_most, at_most // 2 + 2)) == (0, len(y) - 1, True)
    assert (np.diff(kept) > 0).all()
    spike = np.zeros(200)
    spike[77] = 1
    assert {76, 77, 78} & set(thinned(np.arange(200.0), spike, at_most).tolist()) >= {77}


@given(st.floats(-1e3, 1e3), st.floats(1e-9, 10))
def test_the_briefest_threshold_gives_the_same_point(low, width):
    high = low + width
    value = briefest(low, high)
    assert low < value <= high or low == high
    assert len(repr(value)) <= len(repr(high))


def test_advice_is_chosen_on_validation_data_and_leaves_out_what_was_fitted_there(study):
    _, _, table = study
    best = recommended(table)
    assert set(best.index.get_level_values("policy")) <= {"confidence", "patience"}
    spoilt = table.assign(accuracy=0.1, cost=7.0)  # of test data
    assert recommended(spoilt).index.equals(best.index)
    row = best.loc["net"].iloc[0]
    assert f"{100 * row['share']:.1f} ± {100 * row['share_sd']:.1f} %" in found(table)
    assert "of the policies that were not fitted on these samples" in to_use(table)
    held_out = table.assign(held_out=True)
    cheapest = without_loss(held_out).query("system == 'net'").groupby("policy")["validation_cost"].mean()
    assert recommended(held_out).loc["net"].index.tolist() == [cheapest.idxmin()]
    assert "not fitted" not in to_use(held_out)


def test_only_a_policy_of_the_file_can_be_used(study):
    _, runs, _ = study
    files = runs[0].files
    for line in (["evaluate", "--test", files["test"], "--out", "x.csv"], ["certify", files["validation"]]):
        result = CliRunner().invoke(cli, [*line, "--policies", files["policies"], "--only", "pcee"])
        assert "--only for 'pcee'; expected one of confidence, pcee-ws, patience, oracle" in result.output


# In the browser


@pytest.fixture(scope="module")
def page(study):
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install -e .[test]"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    folder, _, table = study
    table.to_parquet(folder / "all.parquet")
    write_report([folder / "points.parquet"], "A study", {}, {}, "make reproduce", folder / "index.html")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900}, accept_downloads=True)
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("request", lambda request: page.said.append(request.url) if request.url.startswith("http") else None)
        page.goto((folder / "index.html").as_uri())
        page.wait_for_selector("html[data-ready]", state="attached", timeout=20000)
        yield page
        browser.close()


def chosen(page, runs):
    """Return the run, the label and the threshold that the page shows, which is exact in the first command."""
    run = runs[int(page.input_value("#run"))]
    delta = float(re.search("--thresholds=(.*?) ", page.inner_text("#commands pre >> nth=0"))[1])
    shown = page.inner_text("#threshold-value").replace("−", "-").replace("∞", "inf")
    assert float(shown) == float(f"{delta:.6g}")
    return run, page.input_value("#policy"), delta


def check_chosen(page, runs):
    """Compare what the page says of the chosen point with `evaluate`."""
    run, label, delta = chosen(page, runs)
    point = evaluate(run.policies[label], run.test, [delta]).iloc[0]
    said = [float(text) for text in re.findall(r"([\d.]+) %", page.inner_text("#said"))]
    shares = 100 * point[["exit_1", "exit_2", "exit_3"]]
    full = 100 * run.test.correct[:, -1].mean()
    assert said == pytest.approx([100 * point.accuracy, full, point.cost / 4e4, *shares], abs=0.0501)
    texts = page.locator("#chart-exits .mark-text.role-mark text").all_text_contents()
    bars = [float(text.rstrip("%")) for text in texts]
    assert bars == pytest.approx(shares.tolist(), abs=0.501)
    return point


def test_the_page_shows_what_evaluate_says(page, study):
    folder, runs, table = study
    assert page.said == []
    check_chosen(page, runs)
    page.focus("#threshold")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    check_chosen(page, runs)
    # the cheapest point that is accurate enough on validation data
    page.select_option("#policy", "pcee-ws")
    page.fill("#wanted", "90")
    run, label, delta = chosen(page, runs)
    rows = rows_of(table, run, label)
    enough = rows[rows["validation_accuracy"] >= 0.9]
    assert delta == enough.loc[enough["validation_cost"].idxmin(), "threshold"]
    check_chosen(page, runs)
    # a click on a point, and the command for it
    page.select_option("#run", "3")
    symbols = page.locator("#chart .mark-symbol.role-mark path").all()
    box = symbols[len(symbols) // 3].bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_timeout(50)
    point = check_chosen(page, runs)
    command = shlex.split(page.locator("#commands pre").first.inner_text())
    assert command[0] == "offramp"
    done = CliRunner().invoke(cli, [*command[1:-1], str(folder / "point.csv")])
    assert done.exit_code == 0, done.output
    written = pd.read_csv(folder / "point.csv")
    assert (len(written), written["policy"][0]) == (1, page.input_value("#policy"))
    assert written["accuracy"][0] == point.accuracy
    certify = shlex.split(page.locator("#commands pre").nth(1).inner_text())
    assert CliRunner().invoke(cli, [*certify[1:-1], str(folder / "c.csv")]).exit_code == 0
    assert page.locator("#commands pre").nth(2).inner_text().startswith("offramp export ")
    assert page.said == []


def test_points_are_sorted_and_downloaded(page, study, tmp_path):
    _, _, table = study
    page.click("#points summary")
    page.click("#head button:text-is('accuracy')")
    shown = page.locator("#rows tr td:nth-child(5)").all_inner_texts()
    assert len(shown) > 20
    assert [*map(float, shown)] == sorted(map(float, shown))
    page.click("#head button:text-is('accuracy')")
    assert page.locator("#rows tr td:nth-child(5)").first.inner_text() == shown[-1]
    with page.expect_download() as download:
        page.click("#csv")
    download.value.save_as(tmp_path / "points.csv")
    written = pd.read_csv(tmp_path / "points.csv")
    assert len(written) == len(table)
    for name in ("threshold", "accuracy", "accuracy_low", "cost", "validation_cost", "exit_2"):
        assert np.allclose(written[name], table[name], rtol=1e-6, atol=1e-4), name
    assert written["policy"].tolist() == table["policy"].tolist()


def test_a_phone_and_the_dark(page):
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

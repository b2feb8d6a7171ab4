"""Comparison of written captions over seeds, and the tables and figures that show it. All of it without torch."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from offramp._io.tables import write_table
from offramp.comparison.captions import FULL, Sweeps, chosen_points
from offramp.evaluation.captions import METRICS
from offramp.reports.catalogue import FIGURES, TABLES
from offramp.reports.figures import style

FILLS = ("copy", "recompute")


def points_of(**rows):
    columns = ["threshold", "CIDEr", "macs"]
    table = pd.DataFrame(
        [(name.rstrip("0123456789"), *row) for name, row in rows.items()], columns=["policy", *columns]
    )
    return table.assign(layer_speedup=2.0, mac_speedup=100 / table["macs"], second_speedup=1.0)


def test_the_cheapest_threshold_at_a_quality():
    points = points_of(
        full=(np.inf, 2.0, 100),
        a1=(0.1, 1.0, 20),
        a2=(0.5, 1.97, 60),
        a3=(0.7, 2.0, 80),
        b1=(0.1, 1.9, 50),
        c1=(1, 2.1, 120),
    )
    for drop, expected in ((0.0, [0.7, np.inf, np.inf]), (0.03, [0.5, np.inf, np.inf]), (0.06, [0.5, 0.1, np.inf])):
        chosen = chosen_points(points, drop)
        assert chosen["policy"].tolist() == ["a", "b", "c"]
        assert chosen["threshold"].tolist() == expected


def made(seeds, **factors):
    """Points and captions in which CIDEr of each policy is that of the full model times a factor, at half the cost."""
    rng, points, captions = np.random.default_rng(0), [], []
    for seed in seeds:
        cider, tokens = rng.random(50) + 1, rng.integers(2, 5, 50)
        for policy, factor, threshold in ((FULL, 1.0, np.inf), *((name, each, 0.5) for name, each in factors.items())):
            layers = 4 if policy == FULL else 2
            for fill in ("recompute",) if policy == FULL else FILLS:
                about = {"dataset": "scenes", "system": "s", "seed": seed, "policy": policy, "text": "reference"}
                about |= {"fill": fill, "threshold": threshold}
                loss = factor - (0.1 if fill == "copy" else 0)
                sums = {"macs": 10.0 * layers, "layers": layers, "layer_speedup": 4 / layers, "mac_speedup": 4 / layers}
                metrics = dict.fromkeys(("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"), 0.5)
                points += [
                    about | {"split": split, "CIDEr": factor} | metrics | sums
                    for split in ("validation", "test")
                    if split == "test" or fill == "recompute"
                ]
                exits = [" ".join([str(layers)] * n) for n in tokens]
                words = [" ".join(["a", "dog", "on", "mats"][: n - 1]) for n in tokens]
                columns = {"image": range(50), "caption": words, "exits": exits, "tokens": tokens}
                columns |= {"layers": tokens * layers, "macs": 10.0 * tokens * layers}
                captions.append(pd.DataFrame(about | columns | {"CIDEr": loss * cider, "ROUGE-L": cider / 2}))
    return pd.DataFrame(points), pd.concat(captions, ignore_index=True)


def sweeps_of(seeds, **factors):
    return Sweeps(*made(seeds, **factors), (0.0, 0.2), 200)


def test_captions_at_matched_quality():
    found = sweeps_of([0, 1], a=0.9, b=1.1).matched().set_index(["policy", "fill", "at_most"])
    row = found.loc["a", "recompute", 0.2]
    assert row[["drop", "drop_sd", "drop_low", "drop_high"]].tolist() == pytest.approx([0.1, 0, 0.1, 0.1], abs=1e-9)
    assert row[["layer_speedup", "mac_speedup"]].tolist() == pytest.approx([2, 2])
    assert found.loc["a", "recompute", 0.0]["threshold"] == np.inf  # too bad, so the full model answers
    assert found.loc["a", "recompute", 0.0]["layer_speedup"] == pytest.approx(1)
    assert found.loc["b", "recompute", 0.0]["drop"] == pytest.approx(-0.1)
    assert found.loc["b", "recompute", 0.0]["CIDEr_low"] < found.loc["b", "recompute", 0.0]["CIDEr"]


def test_both_fills_are_compared_at_the_same_thresholds():
    pairs = sweeps_of([0, 1], a=0.9, b=1.1).pairs()
    assert set(pairs["varied"]) == {"fill"}  # nothing was fitted on written captions
    row = pairs[(pairs["policy"] == "b") & (pairs["at_most"] == 0)].iloc[0]
    assert row[["difference", "difference_low", "difference_high"]].tolist() == pytest.approx([-0.1] * 3)
    assert row[["layer_ratio", "mac_ratio"]].tolist() == pytest.approx([1, 1])


def test_layers_are_counted_by_position_and_kind_of_word():
    words = sweeps_of([0], a=1.0).words()
    its = words[(words["fill"] == "recompute") & (words["at_most"] == 0)].set_index(["position", "kind"])
    assert set(its.index) == {(1, "function"), (2, "content"), (2, "end"), (3, "function"), (3, "end"), (4, "end")}
    assert its.loc[(1, "function"), "tokens"] == 50
    assert its.loc[2, "tokens"].sum() == 50
    assert (its["layers"] == 2).all()
    assert (its["depth"] == 4).all()


def test_sweeps_that_cannot_be_compared():
    whole = sweeps_of([0], a=1.0)
    whole.full(next(whole.chosen.itertuples()))["CIDEr"] = 0.0
    with pytest.raises(ValueError, match="the full model has CIDEr 0 on 50 test images"):
        whole.matched()
    points = pd.DataFrame([{"split": "test"}])
    captions = pd.DataFrame(
        [
            {"system": "s", "seed": seed, "text": "", "fill": "", "policy": "", "threshold": 0, "image": image}
            for seed, image in ((0, 0), (0, 1), (1, 0))
        ]
    )
    with pytest.raises(ValueError, match="captions of 1 and of 2 test images"):
        Sweeps(points, captions)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The files of a study: BEEM-C keeps the quality at half the layers, and BEEM-A does not."""
    folder = tmp_path_factory.mktemp("study")
    points, captions = made([0, 1], **{"beem-c": 1.0, "beem-a": 0.9, "calm": 1.0})
    again = [table[table["fill"] == "recompute"].assign(text="generated") for table in (points, captions)]
    points, captions = (pd.concat([*pair], ignore_index=True) for pair in zip((points, captions), again))
    sweeps = Sweeps(points, captions, (0.0, 0.2), 200)
    seconds = points.assign(seconds=0.1, second_speedup=points["layer_speedup"], device="cpu")
    promise = {
        "dataset": "scenes",
        "system": "s",
        "text": "reference",
        "policy": "calm",
        "level": 0.1,
        "confidence": 0.9,
    }
    promise |= {"estimate": 0.05, "images": 50, "CIDEr": 1.0, "layer_speedup": 2.0, "mac_speedup": 2.0}
    promises = [
        promise | {"seed": seed, "risk": risk, "threshold": threshold, "test_risk": test_risk}
        for seed, test_risk, threshold in ((0, 0.05, 0.5), (1, 0.15, np.inf))
        for risk in ("rouge_drop", "changed")
    ]
    pngs = [BytesIO() for _ in range(3)]
    for file in pngs:
        Image.new("L", (8, 8)).save(file, "PNG")
    pictures = pd.DataFrame({"image": range(3), "png": [file.getvalue() for file in pngs]})
    tables = {"points": points, "captions": captions, "seconds": seconds.drop(columns="BLEU-4"), "pictures": pictures}
    tables |= {"matched": sweeps.matched(), "pairs": sweeps.pairs(), "words": sweeps.words()}
    tables["certified"] = pd.DataFrame(promises)
    about = {"dataset": "scenes", "system": "s", "split": "test", "images": 50, "tokens": 7.5}
    tables["quality"] = pd.DataFrame(
        [
            about | {"seed": seed, "beams": beams} | dict.fromkeys(METRICS, 0.1 * beams + seed)
            for seed in (0, 1)
            for beams in (3, 1)
        ]
    )
    for name, table in tables.items():
        write_table(table, folder / f"{name}.parquet")
    return folder


FILES = {
    "caption points": "points",
    "captions": "captions",
    "caption seconds": "seconds",
    "pictures": "pictures",
    "matched captions": "matched",
    "caption pairs": "pairs",
    "words": "words",
    "certified captions": "certified",
    "caption quality": "quality",
}


def inputs(entry, study):
    return [study / f"{FILES[kind]}.parquet" for kind in entry.reads]


@pytest.mark.parametrize("name", [name for name, entry in TABLES.items() if set(entry.reads) <= FILES.keys()])
def test_every_table_of_captions(name, study, tmp_path):
    TABLES[name].write(inputs(TABLES[name], study), tmp_path / name)
    numbers = pd.read_csv(tmp_path / f"{name}.csv")
    assert len(numbers)
    text = TABLES[name].load().readable(numbers)
    assert not (text == "nan").any(axis=None)
    assert (tmp_path / f"{name}.tex").read_text().isascii()


def test_the_claim_holds_for_what_is_fast_and_loses_nothing(study):
    table = TABLES["captions-claim"].make([study / "matched.parquet"], {"policies": ["beem-c", "beem-a"]})
    assert dict(zip(table["policy"], table["verdict"])) == {"beem-c": "holds", "beem-a": "does not hold"}
    assert (
        TABLES["captions-claim"].load().sentences(table)[0].startswith("BEEM's claim on captions holds for BEEM-C (s)")
    )


def test_promises_that_were_broken_are_counted(study):
    table = TABLES["captions-certified"].make([study / "certified.parquet"], {})
    assert table[["seeds", "broken", "full"]].to_numpy().tolist() == [[2, 1, 1]] * 2


def test_the_full_model_is_shown_greedily_first(study):
    table = TABLES["captions-full"].make([study / "quality.parquet"], {})
    assert table["beams"].tolist() == [1, 3]
    assert table["CIDEr"].tolist() == pytest.approx([0.6, 0.8])
    assert table["CIDEr_sd"].tolist() == pytest.approx([0.5**0.5] * 2)


def test_pairs_are_those_of_the_file(study):
    for name, varied in (("captions-fills", "fill"), ("captions-texts", "text")):
        table = TABLES[name].make([study / "pairs.parquet"], {})
        assert set(table["varied"]) == {varied}
        expected = {"fill": -0.1, "text": 0.0}[varied]
        its = table[(table["policy"] == "beem-c") & (table["at_most"] == 0)]
        assert its["difference"].tolist() == pytest.approx([expected], abs=1e-12)


@pytest.mark.parametrize("name", [name for name, entry in FIGURES.items() if set(entry.reads) <= FILES.keys()])
@pytest.mark.filterwarnings("error")
def test_every_figure_of_captions(name, study, tmp_path):
    with style.settings():
        figure = FIGURES[name].make(inputs(FIGURES[name], study), {})
        style.save(figure, tmp_path / name)
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= style.TWO_COLUMNS
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1  # no legend is cut off
    texts = {text.get_text() for text in figure.findobj(Text)}
    assert texts & {"CALM", "dog", "a"}

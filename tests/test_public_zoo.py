"""Public models: their fronts, the table computed by hand, the figure, and the marks of the front by timm."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from matplotlib.text import Text

from offramp.cascades.fronts import pareto
from offramp.cascades.public_models import COSTS, front, read_zoo
from offramp.cli import cli
from offramp.reports.catalogue import FIGURES, TABLES
from offramp.reports.figures import public_zoo, style
from offramp.reports.labels import title_and_caption

DATA = Path(__file__).parents[1] / "data" / "timm"
SNAPSHOT, NEWEST = DATA / "timm_pareto_2022-09.csv", DATA / "timm_pareto.csv"

OLD = """model,img_size,top1,gmacs,sps_rtx3090_nchw
tiny,64,60,1,10000
huge,64,90,"1,000",20
middle,64,80,50,500
beaten,64,79,60,1000
"""
NEW = """model,img_size,top1,gmacs,sps_rtx3090_amp_nchw_pt240,sps_cpu_i7_12700h_fp32_dynamo_pt240
a,64,70,1,"10,000",100
b,96,81,10,,50
c,96,87,40,100,2
"""


@pytest.fixture
def tables(tmp_path):
    old, new = tmp_path / "zoo_2021-05.csv", tmp_path / "zoo.csv"
    old.write_text(OLD)
    new.write_text(NEW)
    return [old, new]


def test_a_table_is_read(tables):
    old, new = map(read_zoo, tables)
    assert list(new) == ["zoo", "model", "img_size", "top1", *COSTS]
    assert (set(old["zoo"]), set(new["zoo"])) == ({"2021-05"}, {"newest"})
    assert old["gmacs"].tolist() == [1, 1000, 50, 60]
    assert old["gpu_ms"].tolist() == [0.1, 50, 2, 1]
    assert old["cpu_ms"].isna().all()
    np.testing.assert_array_equal(new["gpu_ms"], [0.1, np.nan, 10])
    assert front(old, "gmacs")["model"].tolist() == ["tiny", "middle", "huge"]
    assert front(old, "gpu_ms")["model"].tolist() == ["tiny", "beaten", "middle", "huge"]
    assert front(new, "gpu_ms")["model"].tolist() == ["a", "c"]  # models without a time are left out
    assert front(old, "cpu_ms").empty


def test_the_table_by_hand(tables, tmp_path):
    TABLES["public-zoo"].write(tables, tmp_path / "t")
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["model"].tolist() == ["tiny", "middle", "huge", "a", "b", "c"]
    assert table["neighbour"].fillna("").tolist() == ["", "tiny", "middle", "", "a", "b"]
    ratio = np.array([np.nan, 0.02, 0.05, np.nan, 0.1, 0.25])
    np.testing.assert_allclose(table["cost_ratio"], ratio)
    for reduction in (1, 1.9, 3.1):
        np.testing.assert_allclose(table[f"exit_rate_{reduction}"], 1 + ratio - 1 / reduction)
    assert table["models"].tolist() == [4, 4, 4, 3, 3, 3]
    assert table["on_gpu_ms_front"].tolist() == [True, True, True, True, False, True]
    assert table["on_cpu_ms_front"].tolist() == [False] * 3 + [True] * 3
    *found, _, about = (tmp_path / "t.md").read_text().strip().split("\n\n")
    assert found == [
        "2021-05: of 4 models 3 are on the front of MACs, of these 3 on that of the RTX 3090. Of 2 pairs of neighbours "
        "an exit rate could be enough for 1.9× in 2 and for 3.1× in 2.",
        "newest: of 3 models 3 are on the front of MACs, of these 2 on that of the RTX 3090 and 3 on that of the Core "
        "i7-12700H. Of 2 pairs of neighbours an exit rate could be enough for 1.9× in 2 and for 3.1× in 2.",
    ]
    title, caption = TABLES["public-zoo"].headline
    assert about == f"{title}. {caption}"
    assert (tmp_path / "t.tex").read_text().isascii()


def test_what_no_exit_rate_reaches_is_a_dash(tables, tmp_path):
    tables[0].write_text("model,img_size,top1,gmacs,sps_rtx3090_nchw\nsmall,64,60,1,10\nlarge,64,70,2,5\n")
    TABLES["public-zoo"].write(tables[:1], tmp_path / "t")
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["exit_rate_1.9"].iloc[1] == pytest.approx(1.5 - 1 / 1.9)
    assert table["exit_rate_3.1"].iloc[1] > 1
    rates = TABLES["public-zoo"].load().readable(table).iloc[:, -3:].to_numpy().tolist()
    assert rates == [["–", "–", "–"], ["50", "97", "–"]]


# The figure


def drawn(files):
    with style.settings():
        return public_zoo.draw(files)


def test_the_figure_shows_fronts_and_exit_rates(tables):
    figure = drawn(tables)
    macs, gpu, cpu, rates = figure.axes
    steps = [line for line in macs.lines if line.get_drawstyle() == "steps-post"]
    assert [line.get_xydata().tolist() for line in steps] == [
        [[1, 60], [50, 80], [1000, 90]],
        [[1, 70], [10, 81], [40, 87]],
    ]
    assert len([line for line in cpu.lines if line.get_drawstyle() == "steps-post" and len(line.get_xdata())]) == 1
    hollow = [line for line in gpu.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_ydata().tolist() for line in hollow] == [[], [81]]  # only b; models without a time are not shown
    marks = [line.get_xydata() for line in rates.lines if line.get_linestyle() == "None"]
    more = np.array([0, 100 * (1 - 1 / 1.9)])
    of_b, of_c = np.array([[11, 10]]), np.array([[17, 2.5], [6, 25]])  # points below, and the ratio of costs in %
    for found, expected in zip(marks, [of_b + more, of_b, of_c + more, of_c, of_c + more, of_c], strict=True):
        np.testing.assert_allclose(found, expected)


def test_the_figure_can_be_read_and_is_always_the_same(tables, tmp_path):
    figure = drawn(tables)
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= style.TWO_COLUMNS
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    title, caption = title_and_caption(public_zoo.draw)
    assert len(title) < 60 < len(caption)
    for out in ("once", "again"):
        FIGURES["public-zoo"].write(tables, tmp_path / out / "p")
    for path in (tmp_path / "once").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_table_without_times_on_a_cpu_leaves_their_panel_empty(tables):
    axes = drawn(tables[:1]).axes
    assert [ax.axison for ax in axes] == [True, True, False, True]


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OLD.replace("top1", "accuracy"), "no column top1; expected a table of timm's results with model, top1"),
        (OLD.replace("sps_rtx3090_nchw", "sps"), "no column sps_rtx3090_amp_nchw_pt240 or sps_rtx3090_nchw; expected"),
        (OLD.replace("60,1,", "60,0,"), "gmacs of row 2 is 0; expected above 0"),
        (OLD.replace("500", "fast"), "sps_rtx3090_nchw: "),
    ],
)
@pytest.mark.parametrize("verb", ["figure", "table"])
def test_other_files_are_named(verb, text, message, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text(text)
    result = CliRunner().invoke(cli, [verb, "public-zoo", str(path), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, ValueError)
    assert re.match(f".*other.csv: {re.escape(message)}", str(result.exception))
    assert not list(tmp_path.glob("out*"))


def test_three_tables_are_too_many(tables):
    with pytest.raises(ValueError, match="public-zoo: got 3 tables; expected one or two"):
        drawn([*tables, tables[0]])


# The real tables


def test_the_fronts_that_were_published():
    members = front(read_zoo(SNAPSHOT), "gmacs")
    assert len(members) == 26
    ends = members[["model", "top1", "gmacs"]].round(2).iloc[[0, -1]].values.tolist()
    assert ends == [["tinynet_e", 59.86, 0.03], ["beit_large_patch16_512", 88.60, 362.24]]
    assert len(front(read_zoo(NEWEST), "gmacs")) == 37


@pytest.mark.parametrize("path", [SNAPSHOT, NEWEST], ids=["2022-09", "newest"])
def test_every_mark_of_a_front_is_ours(path):
    table = pd.read_csv(path)
    marks = [name for name in table if name.startswith("pf_")]
    assert marks
    for mark in marks:
        name, real, _ = mark.removeprefix("pf_").partition("_real")
        known = table.dropna(subset=[name])
        cost = known[name] if name == "gmacs" else 1 / known[name]
        places = known.index[pareto(cost, known[f"top1{real}"])]
        assert sorted(places) == table.index[table[mark] == 1].tolist(), mark

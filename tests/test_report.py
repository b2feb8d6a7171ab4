"""The report is one page that contains everything it shows."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from offramp._io.tables import write_table
from offramp.cli import cli
from offramp.records import ExitRecord
from offramp.reports.catalogue import FIGURES, TABLES
from offramp.reports.environment import environment
from offramp.reports.page import read_json, write_report

PARAMETERS = {
    "study": "digits",
    "seeds": [0, 1, 2],
    "systems": {"vit": {"depth": 6, "shift": None}},
    "pairs": [["small", "large"], ["small", "medium"]],
    "notes": ["digits are 8x8", "a < b"],
}


def numbers_with(name, value, half_width):
    return {name: value, f"{name}_sd": 0.001, f"{name}_low": value - half_width, f"{name}_high": value + half_width}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    record = ExitRecord.from_outputs(
        rng.integers(0, 3, (70, 3)), rng.random((70, 3)), rng.integers(0, 3, 70), [1.0, 2.0, 3.0]
    )
    record.save(folder / "test.safetensors")
    FIGURES["oracle-heatmap"].write([folder / "test.safetensors"], folder / "figures" / "oracle-heatmap-vit")
    pair = {"small": "vit-small", "large": "vit-large", "match": "equal cost"}
    pairs = [
        {"policy": policy, **pair} | numbers_with("gain", gain, 0.01) | numbers_with("cost_ratio", 0.9, 0.1)
        for policy, gain in (("pcee", 0.03), ("pcee-ws", -0.03))
    ]
    control = [
        {"system": "vit-large", "policy": policy, "baseline": "confidence", "deltas": 20.0}
        | numbers_with("error", 0.1, 0.01)
        | numbers_with("worst", 0.2, 0.01)
        | numbers_with("short", 0.5, 0.01)
        | numbers_with("excess", excess, 0.01 if excess else 0)
        for policy, excess in (("confidence", 0.0), ("pcee", 0.005), ("pcee-ws", -0.02))
    ]
    write_table(pd.DataFrame(pairs), folder / "pairs.parquet")
    write_table(pd.DataFrame(control), folder / "control.parquet")
    TABLES["claims"].write([folder / "pairs.parquet", folder / "control.parquet"], folder / "tables" / "claims")
    TABLES["control"].write([folder / "control.parquet"], folder / "tables" / "control")
    return folder


@pytest.fixture
def files(study):
    return [study / "figures/oracle-heatmap-vit.png", study / "tables/control.csv", study / "tables/claims.csv"]


@pytest.fixture
def page(study, files):
    write_report(files, "PCEE & digits", PARAMETERS, environment(), "make reproduce", study / "index.html")
    return (study / "index.html").read_text()


class Balance(HTMLParser):
    """Rejects tags that are not closed in the reverse order."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.text = []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def parsed(page):
    parser = Balance()
    parser.feed(page)
    assert not parser.open
    return parser


def test_the_page_is_whole_and_needs_nothing_else(page, study, files):
    parsed(page)
    assert page.startswith("<!DOCTYPE html>")
    sources = re.findall(r'src="([^"]*)"', page)
    shown = [Image.open(io.BytesIO(base64.b64decode(s.removeprefix("data:image/png;base64,")))) for s in sources]
    away = np.abs(np.asarray(shown[0].convert("RGB"), int) - np.asarray(Image.open(files[0]).convert("RGB"), int))
    assert (len(shown), away.mean() < 0.5, away.max() <= 24) == (1, True, True)  # 256 colours
    links = [link for link in re.findall(r'href="([^"]*)"', page) if not link.startswith("#")]
    assert links == [
        "figures/oracle-heatmap-vit.pdf",
        *("tables/control.csv", "tables/control.tex"),
        *("tables/claims.csv", "tables/claims.tex"),
    ]
    assert all((study / link).exists() for link in links)
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    anchors = [link[1:] for link in re.findall(r'href="(#[^"]*)"', page)]
    assert all(f'id="{anchor}"' in page for anchor in anchors)
    assert 'name="viewport"' in page
    assert "@media print" in page


def test_claims_come_first_and_verdicts_are_said(page):
    assert page.index('id="claims"') < page.index('id="notes"') < page.index('id="figures"') < page.index('id="tables"')
    assert '<td class="short verdict holds">holds</td>' in page
    assert '<td class="short verdict fails">does not hold</td>' in page
    assert '<td class="short verdict open">undecided</td>' in page
    claims = page[page.index('id="claims"') : page.index('id="notes"')]
    assert re.findall(r'<span class="chip verdict (.*?)">(.*?)</span>', claims) == [
        *(("holds", "holds: 1"), ("fails", "does not hold: 1"), ("open", "undecided: 1"), ("holds", "holds: 1"))
    ]
    assert claims.count('<a href="#table-claims">') == 2
    text = parsed(page).text
    assert any("Does not hold: ViT small → ViT large (PCEE-WS)." in part for part in text)
    assert "Layers that the oracle uses: ViT" in text
    assert any(part.startswith("Layers used on 64 random test samples") for part in text)
    assert "−2.0 [−3.0, −1.0] ± 0.1" in text


def test_parameters_notes_and_environment_are_shown(page):
    text = parsed(page).text
    assert "PCEE & digits" in text
    assert "a < b" in text
    assert {"study", "seeds", "0, 1, 2", "depth", "6", "–", "small, large", "make reproduce"} <= set(text)
    assert "notes" not in text
    assert {np.__version__, environment()["processor"]} <= set(text)


def test_environment_names_machine_and_versions():
    done = CliRunner().invoke(cli, ["environment"])
    found = json.loads(done.output)
    assert found == environment()
    assert found["packages"]["numpy"] == np.__version__
    assert found["processor"]
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0


def test_the_same_inputs_give_the_same_page(study, files, page, tmp_path):
    (tmp_path / "parameters.json").write_text(json.dumps(PARAMETERS))
    command = ["report", *map(str, files), "--title", "PCEE & digits", "--command", "make reproduce"]
    (tmp_path / "environment.json").write_text(json.dumps(environment()))
    command += ["--parameters", str(tmp_path / "parameters.json")]
    command += ["--environment", str(tmp_path / "environment.json"), "--out", str(study / "again.html")]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert (study / "again.html").read_text() == page


def test_notes_come_first_in_studies_of_captions(files, tmp_path):
    parameters = {"notes": ["these data are synthetic"], "captions": {"policies": ["pcee"]}}
    write_report(files, "Title", parameters, {}, "make", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.index("these data are synthetic") < page.index('id="claims"') < page.index('id="figures"')
    assert page.count('id="notes"') == 1


def test_a_single_note_and_no_figures(study, files, tmp_path):
    write_report(files[1:2], "Title", {"notes": "only one"}, {}, "make", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<li>only one</li>" in page
    assert 'id="figures"' not in page
    assert 'id="claims"' not in page
    parsed(page)


def test_unknown_files_are_named(study, tmp_path):
    (tmp_path / "error-costs.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    (tmp_path / "control.png").write_bytes(b"\x89PNG" + bytes(40))
    cases = {
        "error-costs.png": "its name must begin with one of .*error-cost, quality-cost,",
        "notes.txt": "expected a figure",
        "control.png": r"no control\.pdf beside it",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=rf"{name}: {message}"):
            write_report([tmp_path / name], "Title", {}, {}, "make", tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(("text", "message"), [("{", "not a JSON file"), ("[1]", "expected a JSON object, got list")])
def test_parameters_that_are_none(text, message, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=rf"p\.json: {message}"):
        read_json(tmp_path / "p.json")

"""The examples in docstrings and on the pages of the documentation, and its build."""

import doctest
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from offramp.records.example import example_records
from offramp.reports import judging
from test_readme import ROOT, blocks, run

SOURCE = ROOT / "src"
START = (ROOT / "docs/start.md").read_text(encoding="utf-8")
# Those of bundles and clusters need files or processes
WITH_EXAMPLES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in sorted(SOURCE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8") and path.stem not in ("bundle", "cluster")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_docstrings(name):
    failed, attempted = doctest.testmod(import_module(name))
    assert (failed, attempted > 0) == (0, True)


def test_the_example_is_a_record_of_the_default_study():
    for split, record in zip(("validation", "test"), example_records()):
        assert (record.metadata["split"], record.metadata["system"]) == (split, "msdnet-small")


def test_examples_of_the_page_about_concepts():
    names = {}
    for code in blocks((ROOT / "docs/concepts.md").read_text(encoding="utf-8"), "python"):
        exec(code, names)
    assert names["policy"].exits(names["test"], 0.95).shape == (540,)


def steps(page):
    """Return the code and the commands of a page, in order, without commands that need a trained model."""
    return [
        (language, part)
        for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        for part in ([block] if language else block.splitlines())
        if language or re.match("offramp (import|judge)", part)
    ]


def test_from_a_table_to_a_deployed_policy(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judging, "_write_entries", lambda *_: [])  # the figures and tables of the report take seconds
    names = {"__name__": "start"}
    for language, step in steps(START):
        if language:
            exec(step, names)
        elif step.endswith("--out cascade/"):
            monkeypatch.setattr(judging, "judge", lambda validation, test, *_, **__: (validation, test))
            run(step)
        else:
            run(step.replace('"', "") + (" --resamples 100" if "judge" in step else ""))
    chosen = json.loads(Path("judged/recommendation.json").read_text())
    assert names["threshold"] == chosen["threshold"]
    expected = names["policy"].predict(names["record"][:10], chosen["threshold"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == expected.tolist()
    assert [names["answer"](names["stages"], n) for n in range(10)] == expected.tolist()


@pytest.mark.nightly
def test_the_wheel_alone_gets_from_a_table_to_a_deployed_policy(tmp_path):
    wheels, environment, work = (tmp_path / name for name in ("wheels", "environment", "work"))
    shutil.copytree(SOURCE, tmp_path / "source/src")  # building writes beside the source
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", wheels, tmp_path / "source"]
    subprocess.run(pip, check=True)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([environment / "bin/pip", "install", "--quiet", f"{wheel}[report]"], check=True)
    work.mkdir()
    program, lines = [], []
    for language, step in steps(START):
        lines.append(step if language else f"import subprocess\nsubprocess.run({step!r}, shell=True, check=True)")
    program = "\n".join(lines) + "\nimport sys\nassert 'torch' not in sys.modules\n"
    path = {"PATH": f"{environment / 'bin'}:/usr/bin:/bin"}
    subprocess.run([environment / "bin/python", "-c", program], check=True, cwd=work, env=path)
    assert (work / "judged/index.html").exists()


class Links(HTMLParser):
    """The links of a page, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        its = dict(attributes)
        self.anchors |= {its.get("id"), its.get("name")}
        self.links += [its[name] for name in ("href", "src") if its.get(name)]


@pytest.mark.nightly
def test_the_documentation_is_built_and_its_links_lead_somewhere(tmp_path):
    """All scripts of the gallery run, there are no warnings, and no page needs the network."""
    shutil.copytree(
        ROOT, tmp_path / "source", ignore=shutil.ignore_patterns(".*", "artifacts", "_build", "generated", "examples")
    )
    html = tmp_path / "html"
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", tmp_path / "source/docs", html]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {
        page: Links(page.read_text(encoding="utf-8")) for page in html.rglob("*.html") if "_static" not in page.parts
    }
    assert len(list((html / "_images").glob("sphx_glr_plot_*_001.png"))) == len(
        list((ROOT / "docs/gallery").glob("*.py"))
    )
    for page, its in pages.items():
        for link in map(urlsplit, its.links):
            if link.scheme:
                continue
            target = (page.parent / unquote(link.path)).resolve() if link.path else page
            assert target.exists(), (page.name, link)
            if link.fragment and target in pages:
                assert unquote(link.fragment) in pages[target].anchors, (page.name, link)

"""The commands and code examples of README.md and of the pages in docs do what the text says."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from offramp import ExitRecord, cascade, load_policies
from offramp.cli import cli
from offramp.policies import POLICIES, make_policy
from offramp.reports import judging

ROOT = Path(__file__).parents[1]
README, POLICIES_PAGE, STUDIES_PAGE = (
    (ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/policies.md", "docs/studies.md")
)
QUICK = "--resamples 100"  # added to the commands that draw bootstrap samples


def blocks(text, language):
    """The code blocks of a language; "" are shell blocks."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def commands(text, *programs):
    """The lines of shell blocks that call one of these programs (by default any), without comments."""
    lines = [line.split(" #")[0].strip() for block in blocks(text, "") for line in block.splitlines()]
    return [line for line in lines if not programs or line.startswith(programs)]


def run(line):
    """Run an `offramp` command in this process."""
    result = CliRunner().invoke(cli, line.split()[1:])
    assert result.exit_code == 0, f"{line}: {result.output}"
    return result.stdout


def section(heading):
    """The text of the section of the README whose heading begins with these words."""
    return re.search(rf"^## {heading}.*?(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)[0]


@pytest.fixture(scope="module")
def own_outputs(tmp_path_factory):
    """A folder in which the commands of "Use 1" were run: import, import, judge; and what judge printed."""
    folder = tmp_path_factory.mktemp("own_outputs")
    subprocess.run([sys.executable, "-c", blocks(README, "python")[0]], check=True, cwd=folder)
    imports, judge = commands(section("Use 1"), "offramp import"), commands(section("Use 1"), "offramp judge")
    assert (len(imports), len(judge)) == (2, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in imports:
            run(line)
        return folder, run(f"{judge[0]} {QUICK}")


def test_judging_your_own_outputs(own_outputs):
    folder, printed = own_outputs
    chosen = json.loads((folder / "judged/recommendation.json").read_text())
    policies, _ = load_policies(folder / "judged/policies.safetensors")
    assert f"threshold {chosen['threshold']:.6g}" in printed
    test = ExitRecord.load(folder / "test.safetensors")
    assert test.n_samples == 400
    answers = policies[chosen["policy"]].predict(test, chosen["threshold"])
    assert (answers == test.labels).mean() == pytest.approx(chosen["accuracy"])
    assert (folder / "judged/index.html").stat().st_size > 10_000


def test_python_example(own_outputs, monkeypatch):
    """The Python example gives the same recommendation as the command."""
    folder, printed = own_outputs
    written = (folder / "judged/recommendation.json").read_bytes()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(judging, "judge", partial(judging.judge, resamples=100))
    lines = []
    names = {"print": lambda value: lines.append(str(value))}
    exec(blocks(README, "python")[1], names)
    assert lines == [printed.strip()]
    assert (folder / "judged/recommendation.json").read_bytes() == written
    fitted, _ = load_policies("policies.safetensors")
    np.testing.assert_array_equal(fitted["pcee"].signal(names["test"]), names["policy"].signal(names["test"]))


def test_cascades_of_your_own_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("validation", "test"):
        labels = rng.integers(0, 4, 200)
        for name, sharpness, cost in (("small", 1, 1), ("large", 4, 5)):
            logits = rng.normal(size=(200, 1, 4)) + sharpness * np.eye(4)[labels][:, None]
            Path(name).mkdir(exist_ok=True)
            ExitRecord(logits, labels, [cost]).save(f"{name}/{split}.safetensors")
    *building, judge = commands(section("Use 3"), "offramp")
    assert [line.split()[1] for line in (*building, judge)] == ["cascade", "cascade", "judge"]
    for line in building:
        run(line)
    made = ExitRecord.load("cascade/test.safetensors")
    expected = cascade([ExitRecord.load(f"{name}/test.safetensors") for name in ("small", "large")])
    np.testing.assert_array_equal(made.prediction, expected.prediction)
    assert made.cost.tolist() == [1, 6]
    given = []
    monkeypatch.setattr(judging, "judge", lambda validation, test, *_, **__: given.extend([validation, test]))
    run(judge)
    assert [record.n_exits for record in given] == [2, 2]
    np.testing.assert_array_equal(given[1].prediction, expected.prediction)


def test_policies_on_the_command_line(own_outputs, monkeypatch):
    monkeypatch.chdir(own_outputs[0])
    for line in commands(POLICIES_PAGE, "offramp"):
        run(line)
    assert list(load_policies("policies.safetensors")[0]) == ["pcee", "coarse"]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_table_of_policies(name):
    row = next(line for line in POLICIES_PAGE.split("\n") if line.startswith(f"| `{name}` |"))
    *_, needs, options = [cell.strip() for cell in row.split("|")[1:-1]]
    policy = make_policy(name)
    known = set(re.findall(r"`([a-z_]+)`", options))
    assert known <= policy.options.keys()
    assert bool(known) == bool(policy.options)
    assert ("fit" in needs.replace("with `temperature`: fit", "").split(", ")) == policy.learns


def test_every_policy_is_in_the_table():
    assert set(re.findall(r"^\| `([a-z-]+)` \|", POLICIES_PAGE, re.MULTILINE)) == set(POLICIES)


def test_policies_whose_threshold_is_an_accuracy():
    sentence = re.search(r"\*\*Thresholds that are accuracies\.\*\*(.*?), the\s", POLICIES_PAGE, re.DOTALL)[1]
    assert set(re.findall(r"`([a-z-]+)`", sentence)) == {n for n in POLICIES if make_policy(n).claims_accuracy}


def test_table_of_studies():
    import yaml

    named = [row.split("|")[1] for row in STUDIES_PAGE.split("\n") if row.startswith("| `")]
    studies = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["studies"]
    assert {name for cell in named for name in re.findall(r"`(\w+)`", cell)} == set(studies)


def test_named_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    assert {"make reproduce", "make test", "make verify"} <= set(commands(README))
    for page in ("README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))):
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page, target)
        for verb in re.findall(r"(?:^|`)offramp ([a-z]+)", text, re.MULTILINE):
            assert verb in cli.commands, (page, verb)


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
            path = page.parent / target if target else page
            assert path.exists(), (page.name, target)
            if anchor:
                headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, (page.name, target, anchor)

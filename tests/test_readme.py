"""The commands and code examples in README.md and docs work as described."""

import json
import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import offramp
from offramp import ExitRecord, cascade, evaluate, load_policies
from offramp.cli import cli
from offramp.policies import POLICIES, make_policy
from offramp.reports import judging

ROOT = Path(__file__).parents[1]
README, POLICIES_PAGE, STUDIES_PAGE, DESIGN = (
    (ROOT / page).read_text(encoding="utf-8")
    for page in ("README.md", "docs/policies.md", "docs/studies.md", "docs/design.md")
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts]
QUICK = "--resamples 100"  # added to the commands that draw bootstrap samples


def blocks(text, language):
    """Return the code blocks of a language. The language "" stands for shell blocks."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in found if name == language]


def commands(text, *programs):
    """Return the lines of shell blocks that call one of these programs (by default any), without comments."""
    lines = [line.split(" #")[0].strip() for block in blocks(text, "") for line in block.splitlines()]
    return [line for line in lines if not programs or line.startswith(programs)]


def run(line):
    """Run an `offramp` command in this process."""
    result = CliRunner().invoke(cli, line.split()[1:])
    assert result.exit_code == 0, f"{line}: {result.output}"
    return result.stdout


def section(heading):
    """Return the section of the README whose heading starts with these words."""
    return re.search(rf"^## {heading}.*?(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)[0]


@pytest.fixture(scope="module")
def own_outputs(tmp_path_factory):
    """Run the commands of "Use 1" in a folder: import, import, judge. Return the folder and the output of judge."""
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


def test_python_example(own_outputs, unrendered, monkeypatch):
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


def test_the_example_of_a_running_model():
    random = np.random.default_rng(0)
    record = ExitRecord(random.normal(size=(30, 3, 4)), random.integers(0, 4, 30), [1, 2, 3])
    names = {}
    exec(blocks(POLICIES_PAGE, "python")[0], names)
    for policy in (make_policy("ztw"), make_policy("pcee", no_exit="most_accurate")):
        policy.fit(record)
        for threshold in (-np.inf, 0.3, 0.6, 0.99, np.inf):
            answers = names["answer"](policy, record.logits.transpose(1, 0, 2), threshold, len(record))
            np.testing.assert_array_equal(answers, policy.predict(record, threshold))


def test_policies_on_the_command_line(own_outputs, monkeypatch):
    monkeypatch.chdir(own_outputs[0])
    for line in commands(POLICIES_PAGE, "offramp"):
        run(line)
    assert list(load_policies("policies.safetensors")[0]) == ["pcee", "coarse"]


# The examples of "Where to add what"


def example(heading):
    """Return the names that the code below a heading of docs/design.md defines."""
    part = re.search(rf"^### {heading}.*?(?=^##|\Z)", DESIGN, re.DOTALL | re.MULTILINE)[0]
    (code,) = blocks(part, "python")
    names = {"__name__": "example"}
    exec(code, names)
    return names


def test_policy_example(monkeypatch):
    policy = example("A policy")["LastChange"]
    monkeypatch.setitem(POLICIES, policy.name, policy)
    record = ExitRecord.from_outputs([[1, 2, 2, 2], [3, 3, 0, 3]], np.full((2, 4), 0.5), [2, 3], [1, 2, 3, 4])
    assert make_policy("last-change").exits(record, 1).tolist() == [2, 1]


def test_model_example(monkeypatch):
    import torch

    from offramp.models import MODELS, build_model
    from offramp.models.costs import exit_costs

    monkeypatch.setitem(MODELS, "staged", example("A model")["Staged"])
    model = build_model("staged", classes=10, image_shape=(3, 8, 8), width=4)
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 3, 10)
    blocks_and_heads = 64 * 9 * np.array([3 * 4, 4 * 4, 4 * 4]) + 4 * 10
    assert exit_costs(model, (3, 8, 8)).macs.tolist() == blocks_and_heads.cumsum().tolist()


def test_dataset_example(monkeypatch):
    from offramp.datasets import DATASETS, load_dataset
    from offramp.datasets.splits import make_splits

    monkeypatch.setitem(DATASETS, "noise", example("A dataset")["load_noise"])
    dataset = load_dataset("noise", shift=2)
    splits = make_splits(dataset, validation=20, seed=0)
    images, labels = dataset.samples(splits, "validation")[[0, 1, 2]]
    assert images.shape == (3, 3, 32, 32)
    assert images.abs().max() <= 2
    assert labels.shape == (3,)


def test_figure_example(tmp_path):
    from offramp._io.tables import write_table
    from offramp.reports.labels import title_and_caption

    record = ExitRecord.from_outputs([[1, 2], [3, 3]], [[0.5, 0.9], [0.7, 0.8]], [2, 3], [1, 2])
    curve = evaluate(make_policy("confidence"), record, [0.0, 0.6, 1.0]).assign(system="s", seed=0, policy="p")
    write_table(curve, tmp_path / "curve.parquet")
    draw = example("A figure or a table")["draw"]
    (ax,) = draw([tmp_path / "curve.parquet"]).axes
    assert ax.lines[0].get_xydata().tolist() == curve[["threshold", "accuracy"]].to_numpy().tolist()
    assert title_and_caption(draw) == (
        "Accuracy against threshold",
        "On test data, for all systems, seeds and policies.",
    )


def test_tree_of_the_source():
    tree = re.findall(r"^[├└]── ([\w./]+)", DESIGN, re.MULTILINE)
    known = {f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / "src/offramp").iterdir()}
    assert {name for name in known if not name.startswith("__") and name != "py.typed"} == set(tree)


# Tables and links


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_table_of_policies(name):
    row = next(line for line in POLICIES_PAGE.split("\n") if line.startswith(f"| `{name}` |"))
    _, rule, paper, needs, options = [cell.strip() for cell in row.split("|")[1:-1]]
    policy = make_policy(name)
    assert (rule, paper) == (policy.rule, policy.paper)
    known = set(re.findall(r"`([a-z_]+)`", options))
    assert known <= policy.options.keys()
    assert bool(known) == bool(policy.options)
    assert ("fit" in needs.replace("with `temperature`: fit", "").split(", ")) == policy.learns


def test_every_policy_is_in_the_table():
    assert set(re.findall(r"^\| `([a-z-]+)` \|", POLICIES_PAGE, re.MULTILINE)) == set(POLICIES)


def test_policies_whose_threshold_is_an_accuracy():
    sentence = re.search(r"\*\*Thresholds that are accuracies\.\*\*(.*?), the\s", POLICIES_PAGE, re.DOTALL)[1]
    assert set(re.findall(r"`([a-z-]+)`", sentence)) == {n for n in POLICIES if make_policy(n).claims_accuracy}


def test_the_version_is_the_same_everywhere():
    assert f"version: {offramp.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {offramp.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_every_extra_is_documented():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/start.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([a-z]+)`", row)} == set(extras)


def test_table_of_studies():
    import yaml

    named = [row.split("|")[1] for row in STUDIES_PAGE.split("\n") if row.startswith("| `")]
    studies = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["studies"]
    assert {name for cell in named for name in re.findall(r"`(\w+)`", cell)} == set(studies)


def test_named_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    assert {"make reproduce", "make test", "make verify"} <= set(commands(README))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (page.name, target)
        for verb in re.findall(r"(?:^|`)offramp ([a-z-]+)", text, re.MULTILINE):
            assert verb in cli.commands, (page.name, verb)


def test_links_lead_somewhere():
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", prose):
            path = page.parent / target if target else page
            assert path.exists(), (page.name, target)
            if anchor:
                headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, (page.name, target, anchor)

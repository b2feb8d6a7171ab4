"""What several test files share: the finished study, commands in this process, and the order of the tests."""

import fcntl
import os
import sys

import hypothesis
import pytest

from checkout import ENVIRONMENT, WHOLE, Checkout
from forking import forked_offramp
from offramp.study.processor import same_on_every_processor

# Random examples a property: `make test` tries a few of them every time, `make test-all` many
hypothesis.settings.register_profile("few", max_examples=25, deadline=None)
hypothesis.settings.register_profile("many", max_examples=200, deadline=None)
hypothesis.settings.load_profile("few")

# Files and groups that take longest. They begin first, so that the two processes of `make test` end together: one
# builds the finished study, and the other needs it only later.
LONG = ("dvc", "slurm", "kill", "serving", "reviews", "plan", "figures", "cascade_reports", "params", "interruptions")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep the tests of a file in one process, unless they name a group, and let the long ones begin."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem.removeprefix("test_")))

    def place(item):
        group = item.get_closest_marker("xdist_group").args[0]
        return LONG.index(group) if group in LONG else len(LONG)

    items.sort(key=place)


def pytest_collection_finish(session):
    """Stop if the groups have no effect, as with versions of pytest and pytest-xdist that do not match."""
    if os.environ.get("PYTEST_XDIST_WORKER") and any("@" not in item.nodeid for item in session.items):
        raise pytest.UsageError("pytest-xdist does not group the tests: install the versions of requirements.lock")


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Checkout:
    """The study `WHOLE`, run to its end once for all processes. Tests read it, or work on a `copy`."""
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent  # of all processes of this run
    study, failure = folder / "finished", folder / "failure.txt"
    with (folder / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not study.exists():
            study.mkdir()
            checkout = Checkout(study)
            checkout.write(WHOLE)
            commands = tmp_path_factory.mktemp("commands")
            with forked_offramp(commands, {**ENVIRONMENT, **same_on_every_processor(ENVIRONMENT)}) as environment:
                done = checkout.run("--cores", "2", **environment)
            if done.returncode:
                failure.write_text(done.stdout + done.stderr)
    assert not failure.exists(), failure.read_text()
    return Checkout.at(study)


@pytest.fixture
def plain_fonts(monkeypatch):
    """Figures whose .pdf does not have subsets of fonts, which take as long as drawing twice."""
    from offramp.reports.figures.style import RC

    monkeypatch.setitem(RC, "pdf.fonttype", 3)


@pytest.fixture
def unrendered(monkeypatch):
    """Figures are made, but their files are one dot: for judgements of which other things are tested."""
    dot = pytest.importorskip("PIL.Image").new("L", (1, 1))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, out, **options: dot.save(out, "png"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Return a function that runs `offramp LINE` in this process and returns (exit code, stdout, stderr)."""
    from offramp.cli import main

    def call(line):
        monkeypatch.setattr(sys, "argv", ["offramp", *line.split()])
        capsys.readouterr()
        code, last = 0, ""
        try:
            main()
        except SystemExit as stop:
            # sys.exit(text) prints the text and exits with 1
            code, last = (1, stop.code) if isinstance(stop.code, str) else (stop.code or 0, "")
        out, err = capsys.readouterr()
        return code, out, err + last

    return call


@pytest.fixture
def said(run):
    """Return a function that runs `offramp LINE` as `run`, and returns its output, or its exit code and error."""

    def call(line):
        code, out, err = run(line)
        return f"{code} {err}" if code else out

    return call

"""The figures and tables of a report. To add one, write a module in `figures` or `tables` and list it here."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from offramp._registry import check_options, load
from offramp.reports.labels import title_and_caption
from offramp.reports.loading import quality_of

if TYPE_CHECKING:
    from offramp.reports.tables.writing import Table


@dataclass(frozen=True)
class Entry:
    """One figure or table.

    Attributes
    ----------
    kind : {"figure", "table"}
    name : str
        Name on the command line. The names of its files begin with it.
    reads : tuple of str
        Kinds of files from which it is made: keys of `loading.KINDS` and `loading.OTHERS`.
    options : tuple of str
        Settings of the study that are passed to it as options of the same names, for example the exits to show.
    judges : tuple of str
        Registered names of the policies that it is about. Their labels in the study are passed as the option
        `policies`.
    needs : tuple of str
        Settings that the study must contain. Otherwise, the entry is left out.
    evidence : mapping of int to str
        For tables of claims: the figure that shows each claim, by its number.
    source : str
        Module and name, for example "tables.pairs:EQUAL_COST". By default, the module has the name of the entry, and
        the name in it is `draw` for figures and `TABLE` for tables.
    """

    kind: Literal["figure", "table"]
    name: str
    reads: tuple[str, ...]
    options: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    evidence: Mapping[int, str] = field(default_factory=dict)
    source: str = ""

    @property
    def module(self) -> str:
        """Name of the module, relative to `offramp`."""
        return f"reports.{self._source[0]}"

    @property
    def _source(self) -> tuple[str, str]:
        module, _, name = self.source.partition(":")
        usual = f"{self.kind}s.{self.name.replace('-', '_')}", {"figure": "draw", "table": "TABLE"}[self.kind]
        return module or usual[0], name or usual[1]

    def load(self) -> "Callable | Table":
        """Import the module, and return the function that draws the figure, or the `Table`."""
        return load(":".join(self._source), __package__)

    @property
    def function(self) -> Callable:
        """The function that makes the figure, or the numbers of the table, from files and options."""
        return self.load() if self.kind == "figure" else self.load().numbers

    @property
    def headline(self) -> tuple[str, str]:
        """Title and caption, from the docstring of `function`."""
        return title_and_caption(self.function)

    def make(self, files: Sequence[Path], options: Mapping[str, Any]):
        """Make the figure or the numbers of the table.

        Parameters
        ----------
        files : sequence of paths
            Input files, in any order.
        options : mapping
            Options of `function`, by name.

        Returns
        -------
        matplotlib Figure or DataFrame

        Raises
        ------
        ValueError
            If an option is unknown or missing, or if a file is missing or of another kind.
        """
        _, *taken = inspect.signature(self.function).parameters.values()
        required = [option.name for option in taken if option.default is option.empty]
        check_options(f"{self.kind} {self.name}", options, [option.name for option in taken], required)
        return self.function(files, **options)

    def write(self, files: Sequence[Path], out: Path, **options: Any) -> None:
        """Write the figure to OUT.pdf and OUT.png, or the table to OUT.csv, OUT.md and OUT.tex.

        If the files are about answers that are not classes, the name of their mean quality is written in place of
        accuracy. The same inputs give identical files.
        """
        if self.kind == "table":
            numbers = self.make(files, options)
            quality = quality_of(files)
            self.load().write(numbers if quality is None else numbers.assign(metric=quality), out)
            return
        from offramp.reports.figures.style import save, settings, write_about

        with settings():
            figure = self.make(files, options)
            write_about(figure, quality_of(files))
            save(figure, out)


def _catalogue(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


def _figure(name: str, *reads: str, **more: Any) -> Entry:
    return Entry("figure", name, reads, **more)


def _table(name: str, *reads: str, **more: Any) -> Entry:
    return Entry("table", name, reads, **more)


# In the order of the report page
FIGURES = _catalogue(
    _figure("caption-speedup", "caption points"),
    _figure("captions", "pictures", "captions"),
    _figure("caption-layers", "words"),
    _figure("error-cost", "curve", "exits", options=("pairs",), needs=("pairs",)),
    _figure("quality-cost", "frontier", "exits", needs=("quality",)),
    _figure("control", "curve", "exits", needs=("baseline",)),
    _figure("speedup", "curve", "exits", needs=("layers",)),
    _figure("exit-histogram", "speedup"),
    _figure("promises", "promises", judges=("pcee", "pcee-ws"), needs=("baseline",)),
    _figure("risk-coverage", "rejection", needs=("max_softmax",)),
    _figure("calibration-or-ranking", "efficiency", needs=("max_softmax",)),
    _figure("agreement", "exits", needs=("prediction",)),
    _figure("reliability", "reliability", options=("exits",)),
    _figure("overconfidence", "record"),
    _figure("oracle-heatmap", "record"),
    _figure("sensitivity", "sensitivity"),
    _figure("shift", "shift"),
    _figure("stream", "drift"),
    _figure("accelerations", "accelerations"),
    _figure("cascades-front", "models", "choices"),
    _figure("cascade-relation", "relations"),
    _figure("cascade-reduction", "reductions"),
    _figure("cascade-variants", "reductions", needs=("variants",)),
    _figure("public-zoo", "public models"),
)
TABLES = _catalogue(
    _table("captions-claim", "matched captions", judges=("beem-c", "beem-a"), source="tables.captions:CLAIM"),
    _table("captions-matched", "matched captions", source="tables.captions:MATCHED"),
    _table("captions-full", "caption quality", source="tables.captions:FULL_MODEL"),
    _table("captions-curve", "caption points", source="tables.captions:CURVE"),
    _table("captions-seconds", "caption seconds", source="tables.captions:SECONDS"),
    _table("captions-fills", "caption pairs", source="tables.captions:FILLS"),
    _table("captions-texts", "caption pairs", source="tables.captions:TEXTS"),
    _table("captions-words", "words", source="tables.captions:WORDS"),
    _table("captions-certified", "certified captions", source="tables.captions:CERTIFIED"),
    _table("claims", "pairs", "control", judges=("pcee", "pcee-ws"), evidence={1: "error-cost", 2: "control"}),
    _table("beem-claims", "speedup", "duels", judges=("beem-c", "beem-a"), evidence={1: "speedup", 2: "speedup"}),
    _table(
        "cascade-claims",
        "reductions",
        "measures",
        evidence={1: "cascades-front", 2: "cascade-relation", 3: "cascade-variants", 4: "cascade-variants"},
    ),
    _table("shift-claim", "shift", judges=("pcee", "pcee-ws"), evidence={4: "shift"}),
    _table("duels", "duels", needs=("duels",)),
    _table("speedup", "speedup"),
    _table("times", "times"),
    _table("per-exit", "speedup"),
    _table("equal-cost", "pairs", needs=("pairs",), source="tables.pairs:EQUAL_COST"),
    _table("equal-accuracy", "pairs", needs=("pairs",), source="tables.pairs:EQUAL_ACCURACY"),
    _table("control", "control"),
    _table("calibration", "control", "exits"),
    _table("targets", "targets"),
    _table("promises", "promises", needs=("baseline",)),
    _table("coverage", "rejection", needs=("max_softmax",)),
    _table("efficiency", "efficiency"),
    _table("calibration-or-ranking", "efficiency", needs=("max_softmax",)),
    _table("exits", "exits"),
    _table("sensitivity", "sensitivity"),
    _table("learning-curve", "learning curve"),
    _table("shift", "shift"),
    _table("stream", "drift"),
    _table("accelerations", "accelerations"),
    _table("reductions", "reductions", source="tables.reductions:REDUCTIONS"),
    _table("cascade-variants", "reductions", needs=("variants",), source="tables.reductions:CASCADE_VARIANTS"),
    _table("resplits", "resplits"),
    _table("replacements", "replacements"),
    _table("models", "models"),
    _table("seconds", "seconds"),
    _table("public-zoo", "public models"),
)


def shown(
    entries: Mapping[str, Entry], files: Collection[str], settings: Mapping[str, Collection], policies: Iterable[str]
) -> list[Entry]:
    """Select the entries that a study can show.

    Parameters
    ----------
    entries : mapping
        `FIGURES` or `TABLES`.
    files : collection of str
        Kinds of files that the study creates.
    settings : mapping
        Settings of the study (pairs, duels, exits, variants, baseline), and whether its records contain qualities,
        predictions and max softmax. Empty ones count as missing. `layers` is whether the exits are layers of a model,
        of which all up to the chosen one run, and not the models of a router.
    policies : iterable of str
        Registered names of its policies.

    Returns
    -------
    list of Entry
    """
    there = set(policies)
    return [
        entry
        for entry in entries.values()
        if set(entry.reads) <= set(files)
        and all(settings.get(name) for name in entry.needs)
        and (not entry.judges or there & set(entry.judges))
    ]

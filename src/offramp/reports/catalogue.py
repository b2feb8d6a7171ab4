"""The figures and tables of a report. A new one is a module in `figures` or `tables`, and a line here."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from offramp._registry import check_options, load
from offramp.reports.labels import title_and_caption

if TYPE_CHECKING:
    from offramp.reports.tables.writing import Table


@dataclass(frozen=True)
class Entry:
    """One figure or table.

    Attributes
    ----------
    kind : {"figure", "table"}
    name : str
        Its name on the command line; its files have this name, or begin with it.
    reads : tuple of str
        The kinds of files that it is made from: keys of `loading.KINDS`.
    options : tuple of str
        What the study may set for it, for example the exits to show. Passed on under the same names.
    judges : tuple of str
        The policies (by their registered names) that it is about. Their labels in the study are passed as `policies`.
    needs : tuple of str
        What the study must set, or else the entry is left out.
    source : str
        Module and name, "tables.pairs:EQUAL_COST". By default the module of the entry's name, and in it the function
        `draw` of a figure, the constant `TABLE` of a table.
    """

    kind: Literal["figure", "table"]
    name: str
    reads: tuple[str, ...]
    options: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    source: str = ""

    @property
    def module(self) -> str:
        """The module below `offramp`."""
        return f"reports.{self._source[0]}"

    @property
    def _source(self) -> tuple[str, str]:
        module, _, name = self.source.partition(":")
        usual = f"{self.kind}s.{self.name.replace('-', '_')}", {"figure": "draw", "table": "TABLE"}[self.kind]
        return module or usual[0], name or usual[1]

    def load(self) -> "Callable | Table":
        """The function that draws the figure, or the `Table`. Its module is imported only now."""
        return load(":".join(self._source), __package__)

    @property
    def function(self) -> Callable:
        """What makes a figure, or the numbers of a table, from files and options."""
        return self.load() if self.kind == "figure" else self.load().numbers

    @property
    def headline(self) -> tuple[str, str]:
        """Title and caption: the docstring of `function`."""
        return title_and_caption(self.function)

    def make(self, files: Sequence[Path], options: Mapping[str, Any]):
        """A matplotlib Figure, or the DataFrame of a table's numbers.

        Raises
        ------
        ValueError
            If an option is unknown or missing, or an input is missing or another.
        """
        _, *taken = inspect.signature(self.function).parameters.values()
        required = [option.name for option in taken if option.default is option.empty]
        check_options(f"{self.kind} {self.name}", options, [option.name for option in taken], required)
        return self.function(files, **options)

    def write(self, files: Sequence[Path], out: Path, **options: Any) -> None:
        """Draw the figure and write OUT.pdf and OUT.png, or write the table as OUT.csv, OUT.md and OUT.tex.

        The same inputs give the same bytes.
        """
        if self.kind == "table":
            self.load().write(self.make(files, options), out)
            return
        from offramp.reports.figures.style import save, settings

        with settings():
            save(self.make(files, options), out)


def _catalogue(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


def _figure(name: str, *reads: str, **more: Any) -> Entry:
    return Entry("figure", name, reads, **more)


def _table(name: str, *reads: str, **more: Any) -> Entry:
    return Entry("table", name, reads, **more)


# In the order of the page
FIGURES = _catalogue(
    _figure("error-cost", "curve", "exits", options=("pairs",), needs=("pairs",)),
    _figure("control", "curve", "exits"),
    _figure("speedup", "curve", "exits"),
    _figure("exit-histogram", "speedup"),
    _figure("agreement", "exits"),
    _figure("reliability", "reliability", options=("exits",)),
    _figure("overconfidence", "record"),
    _figure("oracle-heatmap", "record"),
    _figure("sensitivity", "sensitivity"),
    _figure("cascades-front", "models", "choices"),
    _figure("cascade-relation", "relations"),
    _figure("cascade-reduction", "reductions"),
    _figure("cascade-variants", "reductions"),
    _figure("public-zoo", "public models"),
)
TABLES = _catalogue(
    _table("claims", "pairs", "control", judges=("pcee", "pcee-ws")),
    _table("beem-claims", "speedup", "duels", judges=("beem-c", "beem-a")),
    _table("cascade-claims", "reductions", "measures"),
    _table("duels", "duels", needs=("duels",)),
    _table("speedup", "speedup"),
    _table("per-exit", "speedup"),
    _table("equal-cost", "pairs", needs=("pairs",), source="tables.pairs:EQUAL_COST"),
    _table("equal-accuracy", "pairs", needs=("pairs",), source="tables.pairs:EQUAL_ACCURACY"),
    _table("control", "control"),
    _table("calibration", "control", "exits"),
    _table("targets", "targets"),
    _table("exits", "exits"),
    _table("sensitivity", "sensitivity"),
    _table("reductions", "reductions", source="tables.reductions:REDUCTIONS"),
    _table("cascade-variants", "reductions", source="tables.reductions:CASCADE_VARIANTS"),
    _table("replacements", "replacements"),
    _table("models", "models"),
    _table("seconds", "seconds"),
    _table("public-zoo", "public models"),
)


def shown(
    entries: Mapping[str, Entry], files: Collection[str], settings: Mapping[str, Collection], policies: Iterable[str]
) -> list[Entry]:
    """The entries that a study can show.

    Parameters
    ----------
    entries : mapping
        `FIGURES` or `TABLES`.
    files : collection of str
        The kinds of files that the study makes.
    settings : mapping
        What it sets (pairs, duels, exits); what is empty counts as not set.
    policies : iterable of str
        Its policies, by their registered names.
    """
    there = set(policies)
    return [
        entry
        for entry in entries.values()
        if set(entry.reads) <= set(files)
        and all(settings.get(name) for name in entry.needs)
        and (not entry.judges or there & set(entry.judges))
    ]

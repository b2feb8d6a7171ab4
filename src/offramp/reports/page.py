"""The report of a study: one HTML page that needs no other file."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image

from offramp._io.tables import read_table
from offramp._io.writing import AGAIN, write_text
from offramp.reports.catalogue import FIGURES, TABLES, Entry
from offramp.reports.labels import system_name
from offramp.reports.tables.writing import is_numeric

_TRIMMED = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
_LOOKS = {"holds": "holds", "better": "holds", "does not hold": "fails", "worse": "fails", "undecided": "open"}


@dataclass(frozen=True)
class FigureBlock:
    id: str
    title: str
    caption: str
    image: str  # data URI
    width: int  # CSS pixels
    pdf: str  # relative link


@dataclass(frozen=True)
class TableBlock:
    id: str
    title: str
    caption: str
    findings: list[str]
    header: list[str]
    rows: list[list[str]]
    numeric: list[bool]
    links: dict[str, str]  # kind of file: relative link


def write_report(
    files: Sequence[Path],
    title: str,
    parameters: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
    out: Path,
) -> None:
    """Write the report of a study.

    Parameters
    ----------
    files : sequence of paths
        Figures (STEM.png, with STEM.pdf beside it) and tables (STEM.csv, with STEM.tex), in the order in which they
        are to appear. A stem is the name of a figure or table, or begins with it: reliability-vit.
    title : str
    parameters : mapping
        What the study is, as JSON values. `notes`, a text or a list of texts, is set apart from the rest.
    environment : mapping
        Machine and versions, as `environment.environment` gives them.
    command : str
        What makes the report.
    out : path

    Raises
    ------
    ValueError
        If a file is neither a figure nor a table that is known.
    """
    parameters = dict(parameters)
    notes = parameters.pop("notes", [])
    blocks = [_block(Path(path), Path(out).parent) for path in files]
    tables = [block for block in blocks if isinstance(block, TableBlock)]
    page = Environment(loader=PackageLoader("offramp.reports", "."), **_TRIMMED).get_template("page.html")
    write_text(
        out,
        page.render(
            title=title,
            claims=[block for block in tables if block.findings],
            notes=[notes] if isinstance(notes, str) else notes,
            figures=[block for block in blocks if isinstance(block, FigureBlock)],
            tables=[block for block in tables if not block.findings],
            parameters=parameters,
            command=command,
            verdicts={verdict: f"verdict {look}" for verdict, look in _LOOKS.items()},
            environment=environment,
        )
        + "\n",
    )


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file: a study's parameters, an environment."""
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return values


def _block(path: Path, folder: Path) -> FigureBlock | TableBlock:
    def link(suffix: str) -> str:
        file = path.with_suffix(suffix)
        if not file.exists():
            raise ValueError(f"{path}: no {file.name} beside it")
        return Path(os.path.relpath(file, folder)).as_posix()

    if path.suffix == ".png":
        name = _registered(path, FIGURES)
        picture, pdf = path.read_bytes(), link(".pdf")
        try:
            Image.open(path).verify()
        except (OSError, SyntaxError) as error:  # the latter is Pillow's for a broken one
            raise ValueError(f"{path}: not a readable picture ({error}); if damaged, {AGAIN}") from None
        image = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        width = int(0.7 * int.from_bytes(picture[16:20]))  # the header has it there; 200 dpi are too large for a screen
        return FigureBlock(f"figure-{path.stem}", *_headline(path, FIGURES[name]), image, width, pdf)
    if path.suffix == ".csv":
        name = _registered(path, TABLES)
        table, numbers = TABLES[name].load(), read_table(path)
        try:
            text = table.readable(numbers)
            markdown = table.markdown(numbers, text)
        except Exception as error:  # whatever a damaged table leads to
            raise ValueError(f"{path}: not a table of {name} ({error!r}); if damaged, {AGAIN}") from None
        readable = path.with_suffix(".md")
        if readable.exists() and readable.read_text(encoding="utf-8", errors="replace") != markdown:
            raise ValueError(f"{path}: {readable.name} beside it says something else; delete both and run again")
        return TableBlock(
            f"table-{path.stem}",
            *_headline(path, TABLES[name]),
            table.findings(numbers),
            list(text),
            text.to_numpy().tolist(),
            [is_numeric(text[column]) for column in text],
            {"CSV": link(".csv"), "LaTeX": link(".tex")},
        )
    raise ValueError(f"{path}: expected a figure (.png) or a table (.csv)")


def _registered(path: Path, registry: Mapping[str, Any]) -> str:
    """The longest registered name that the file's name is, or begins with."""
    fits = [name for name in registry if f"{path.stem}-".startswith(f"{name}-")]
    if not fits:
        raise ValueError(f"{path}: its name must begin with one of {', '.join(registry)}")
    return max(fits, key=len)


def _headline(path: Path, entry: Entry) -> tuple[str, str]:
    title, caption = entry.headline
    rest = path.stem.removeprefix(entry.name).removeprefix("-")
    return (f"{title}: {system_name(rest)}" if rest else title), caption

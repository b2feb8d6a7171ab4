"""The report of a study: one HTML page that needs no other file."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from PIL import Image

from offramp._io.tables import read_table
from offramp._io.writing import AGAIN, write_text
from offramp.reports.catalogue import FIGURES, TABLES, Entry
from offramp.reports.labels import system_name
from offramp.reports.tables.writing import is_numeric

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
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_PAGE)
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


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.5 system-ui, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1.05rem; margin: 2rem 0 0.25rem; }
nav, .caption, footer { font-size: 0.9rem; color: #444; }
nav a { margin-right: 1rem; white-space: nowrap; }
a { color: #005a9c; }
.figure { margin: 0; }
.figure img { display: block; max-width: 100%; height: auto; }
.scroll { overflow: auto; margin: 0.5rem 0; }
.long { max-height: 36rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.scroll table { width: 100%; min-width: 44rem; }
th, td { padding: 0.2rem 0.6rem 0.2rem 0; text-align: left; vertical-align: top; }
.scroll thead th { position: sticky; top: 0; background: #fff; border-bottom: 2px solid #1a1a1a;
  vertical-align: bottom; }
.number { text-align: right; }
td.number, td.short { white-space: nowrap; }
tr.first > td { border-top: 1px solid #ccc; }
td.repeated { color: #8a8a8a; }
td.verdict { font-weight: bold; }
td.holds { color: #00694c; } td.fails { color: #a33c00; } td.open { color: #555; }
.parameters th { font-weight: normal; color: #444; white-space: nowrap; padding-right: 1.2rem; }
.parameters table { font-size: 1em; width: auto; min-width: 0; }
pre { background: #f4f4f4; padding: 0.6rem; overflow-x: auto; white-space: pre-wrap; }
@media print {
  html { font-size: 10pt; }
  body { max-width: none; padding: 0; }
  nav { display: none; }
  .figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; max-height: none; }
  .scroll thead th { position: static; }
  .scroll table { font-size: 7pt; min-width: 0; }
  td.number { white-space: normal; }
  .figure img { min-width: 0 !important; }
}
</style>
</head>
<body>
{% macro block(value) %}
{% if value is mapping %}
<table>
{% for key, inner in value.items() %}
<tr><th scope="row">{{ key }}</th><td>{{ block(inner) }}</td></tr>
{% endfor %}
</table>
{% elif value is iterable and value is not string %}
{% if value | reject("string") | select("iterable") | list %}
{% for inner in value %}<div>{{ block(inner) }}</div>{% endfor %}
{% else %}{{ value | join(", ") }}{% endif %}
{% elif value is none %}–{% else %}{{ value }}{% endif %}
{% endmacro %}
{% macro show(table) %}
<h3 id="{{ table.id }}">{{ table.title }}</h3>
{% for finding in table.findings %}
<p>{{ finding }}</p>
{% endfor %}
<div class="scroll{{ " long" if table.rows | length > 45 }}" tabindex="0" role="region" aria-label="{{ table.title }}">
<table>
<thead><tr>
{% for name in table.header %}
<th scope="col"{% if table.numeric[loop.index0] %} class="number"{% endif %}>{{ name }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
{% set same = not loop.first and row[0] == loop.previtem[0] %}
<tr{% if not same %} class="first"{% endif %}>
{% for cell in row %}
{% set classes = ["short" if cell | length < 16, "number" if table.numeric[loop.index0],
  "repeated" if loop.first and same, verdicts.get(cell)] | select | join(" ") %}
<td{% if classes %} class="{{ classes }}"{% endif %}>{{ cell }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
<p class="caption">{{ table.caption }}
{% for kind, link in table.links.items() %}<a href="{{ link }}">{{ kind }}</a>{{ " " }}{% endfor %}</p>
{% endmacro %}
<h1>{{ title }}</h1>
<nav>
{% for name, content in {"claims": claims, "notes": notes, "figures": figures, "tables": tables}.items() if content %}
<a href="#{{ name }}">{{ name | capitalize }}</a>
{% endfor %}
<a href="#parameters">Parameters</a>
<a href="#made">How this was made</a>
</nav>
{% if claims %}
<h2 id="claims">Claims</h2>
{% for table in claims %}{{ show(table) }}{% endfor %}
{% endif %}
{% if notes %}
<h2 id="notes">Notes</h2>
<ul>
{% for note in notes %}
<li>{{ note }}</li>
{% endfor %}
</ul>
{% endif %}
{% if figures %}
<h2 id="figures">Figures</h2>
{% for figure in figures %}
<figure class="figure" id="{{ figure.id }}">
<h3>{{ figure.title }}</h3>
<div class="scroll"><img src="{{ figure.image }}" alt="{{ figure.title }}" width="{{ figure.width }}"
style="min-width: min({{ figure.width }}px, 40rem)"></div>
<figcaption class="caption">{{ figure.caption }} <a href="{{ figure.pdf }}">PDF</a></figcaption>
</figure>
{% endfor %}
{% endif %}
{% if tables %}
<h2 id="tables">Tables</h2>
{% for table in tables %}{{ show(table) }}{% endfor %}
{% endif %}
<h2 id="parameters">Parameters</h2>
<div class="scroll parameters">{{ block(parameters) }}</div>
<h2 id="made">How this was made</h2>
<pre>{{ command }}</pre>
<div class="scroll parameters">{{ block(environment) }}</div>
</body>
</html>"""

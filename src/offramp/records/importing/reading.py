"""Files of named columns (CSV, TSV, JSON lines, Parquet) or named arrays (NumPy archives), read as they are."""

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = (",", ";", "\t")
Column = tuple[str, np.ndarray]


def read_columns(path: Path, separator: str | None = None) -> dict[str, np.ndarray]:
    """Read the columns of a table, of shape (N,) each, or the arrays of an archive, by name.

    Parameters
    ----------
    path : Path
        The ending determines the format, one of `FORMATS`; text files can be compressed (`.csv.gz`).
    separator : str, optional
        Character between the fields of a CSV or TSV file. By default, the comma, semicolon or tab that is most frequent
        in its header. If it is a semicolon, decimal commas are read, too.

    Raises
    ------
    ValueError
        If the ending is unknown, the file is not readable, or a table has no rows or two columns of one name.
    """
    kind = path.with_suffix("").suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if kind not in FORMATS or (path.suffix.lower() == ".gz" and kind in BINARY):
        *most, last = FORMATS
        packed = ", ".join(f"{ending}.gz" for ending in FORMATS if ending not in BINARY)
        raise ValueError(f"expected a file that ends in {', '.join(most)} or {last} (or {packed})")
    try:
        columns = FORMATS[kind](path, separator)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # zipfile, zlib, NumPy, pandas and pyarrow raise different exceptions
        reason = " ".join(str(error).split())
        raise ValueError(f"not a readable {kind} file ({reason})") from None
    names = [name for name, _ in columns]
    if again := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"two columns of the name {again[0]!r}; expected another name for each")
    if is_table(path) and not (columns and len(columns[0][1])):
        raise ValueError("no rows; expected one for each sample")
    return dict(columns)


def is_table(path: Path) -> bool:
    """Whether the file has rows, in contrast to an archive of arrays."""
    return path.suffix.lower() != ".npz"


def _read_archive(path: Path, _: str | None) -> list[Column]:
    with np.load(path, allow_pickle=False) as file:
        return [(name, file[name]) for name in file.files]


def _read_text(path: Path, separator: str | None) -> list[Column]:
    import pandas as pd

    with _open(path) as file:
        first = next((line for line in file if line.strip() and not line.startswith("#")), "")
        separator = separator or max(SEPARATORS, key=first.count)
        lines = csv.reader(chain([first], file), delimiter=separator)  # a name in quotes may contain line breaks
        names = [name.strip() for name in next(lines, [])]
        # Older versions of pandas round floats unless this option is given; newer versions warn if it is given
        inexact = tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)
        exact = {"float_precision": "round_trip"} if inexact else {}
        fields = f"fields with {separator!r} between them; expected {len(names)}, as its header has (or --separator)"
        options: dict[str, Any] = {"sep": separator, "header": None, "names": range(len(names))}
        options |= {"skipinitialspace": True, "low_memory": False}
        options |= {"keep_default_na": False, "na_values": [""]}  # a class may be named NA
        try:
            table = pd.read_csv(file, **options, **exact)
        except pd.errors.EmptyDataError:
            table = pd.DataFrame(columns=range(len(names)))
        except pd.errors.ParserError as error:
            if place := re.search(r"Expected \d+ fields in line (\d+), saw (\d+)", str(error)):
                raise ValueError(f"row {place[1]} has {place[2]} {fields}") from None
            raise
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what is too much as an index
        raise ValueError(f"its rows have {table.shape[1] + table.index.nlevels} {fields}")
    if separator == ";":
        table = table.apply(_with_decimal_points)
    return _columns(table, names)


def _with_decimal_points(column: "pd.Series") -> "pd.Series":
    """Convert a column of numbers with decimal commas. Return other columns unchanged."""
    try:
        return column.str.replace(",", ".", regex=False).astype(np.float64)
    except (AttributeError, ValueError):
        return column


def _read_json_lines(path: Path, _: str | None) -> list[Column]:
    import pandas as pd

    rows = []
    with _open(path) as file:
        for line in filter(str.strip, file):
            try:
                rows.append(dict(json.loads(line)))
            except (TypeError, ValueError):
                raise ValueError(f"row {len(rows) + 1} is {line[:40].strip()!r}; expected an object of JSON") from None
    table = pd.json_normalize(rows)  # nested keys are joined by dots
    return _columns(table, list(table))


def _read_parquet(path: Path, _: str | None) -> list[Column]:
    from pyarrow import types
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read()
    while any(types.is_struct(field.type) for field in table.schema):
        table = table.flatten()  # nested keys are joined by dots
    names = table.column_names
    columns = table.rename_columns(list(map(str, range(len(names))))).to_pandas(ignore_metadata=True)
    return [column for column in _columns(columns, names) if column[0] != "__index_level_0__"]  # the index of pandas


def _columns(table: "pd.DataFrame", names: Iterable[str]) -> list[Column]:
    return [(name, table.iloc[:, place].to_numpy()) for place, name in enumerate(names)]


def _open(path: Path) -> IO[str]:
    return (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="")


# To read another format, add one line
FORMATS: dict[str, Callable[[Path, str | None], list[Column]]] = {
    ".npz": _read_archive,
    ".csv": _read_text,
    ".tsv": _read_text,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
BINARY = (".npz", ".parquet")

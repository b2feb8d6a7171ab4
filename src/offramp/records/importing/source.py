"""The values of named columns or arrays, of one file or several, and where they are, for messages."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from offramp.records.importing.reading import is_table, read_columns

LISTS = (list, tuple, np.ndarray)


@contextmanager
def named(title: str | Path) -> Iterator[None]:
    """Begin the messages of errors with the name of the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{title}: {error}") from None


def title(paths: Sequence[Path]) -> str:
    """The name of the first file, and the number of the others."""
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


@dataclass(frozen=True)
class Source:
    """The columns of a table, or the arrays of an archive. Several files have further rows of the same columns."""

    paths: Sequence[Path]
    parts: Sequence[dict[str, np.ndarray]]

    @classmethod
    def read(cls, paths: Sequence[Path], separator: str | None = None) -> "Source":
        """Read files. Raises ValueError, with the name of the file, if one is not readable."""
        parts = []
        for path in paths:
            with named(path):
                parts.append(read_columns(path, separator))
        return cls(paths, parts)

    @property
    def title(self) -> str:
        return title(self.paths)

    @property
    def names(self) -> list[str]:
        """The columns that all files have."""
        return [name for name in self.parts[0] if all(name in part for part in self.parts)]

    @property
    def wide(self) -> set[str]:
        """The columns with several values per sample."""
        first = self.parts[0]
        return {name for name in self.names if first[name].ndim > 1 or isinstance(first[name].reshape(-1)[0], LISTS)}

    @property
    def is_table(self) -> bool:
        return is_table(self.paths[0])

    def values(self, name: str) -> np.ndarray:  # (N, …)
        """Return a column. Lists become further dimensions, and decimal numbers become floats."""
        values = np.concatenate([np.atleast_1d(part[name]) for part in self.parts])
        if values.dtype != object:
            return values
        if isinstance(values[0], LISTS):
            return self._unpacked(name, values)
        numbers = [isinstance(value, Real | Decimal) and not isinstance(value, bool) for value in values]
        if not all(numbers):
            return values
        for n, value in enumerate(values):
            if isinstance(value, Integral) and abs(int(value)) >= 2**63:
                raise ValueError(f"{self.at(name, n)} is {str(value)[:20]}…; expected a whole number of 64 bits")
        return values.astype(np.int64 if all(isinstance(value, Integral) for value in values) else np.float64)

    def _unpacked(self, name: str, rows: np.ndarray) -> np.ndarray:  # (N, …)
        for n, row in enumerate(rows):
            if not isinstance(row, LISTS) or len(row) != len(rows[0]):
                has = f"has {len(row)} values" if isinstance(row, LISTS) else f"is {shown(row)}"
                raise ValueError(f"{self.at(name, n)} {has}; expected {len(rows[0])} values, as in the first row")
        try:
            return np.stack([np.stack(row) if isinstance(row[0], LISTS) else np.asarray(row) for row in rows])
        except (IndexError, ValueError):
            raise ValueError(
                f"{name}: its lists have different lengths; expected one value per exit and class"
            ) from None

    def numbers(
        self, name: str, expected: str = "a finite number", fits: Callable[[np.ndarray], np.ndarray] = np.isfinite
    ) -> np.ndarray:  # (N, …)
        """Return a column of integers or floats. Percentages with a sign (83.5%) are numbers.

        Raises ValueError, with what was expected, at the first value that is no number or does not fit.
        """
        values = self.values(name)
        if values.dtype == object and all(isinstance(value, str) and value.endswith("%") for value in values):
            values = np.array([value.removesuffix("%") for value in values], np.float64)
        wrong = ~fits(values) if values.dtype.kind in "iuf" else _no_numbers(values)
        if wrong.any():
            place = np.argwhere(wrong)[0]
            raise ValueError(f"{self.at(name, *place)} is {shown(values[tuple(place)])}; expected {expected}")
        return values

    def whole(self, name: str) -> np.ndarray:  # (N, …), int64
        return self.numbers(name, "a whole number", _is_whole).astype(np.int64)

    def at(self, name: str, row: int, *inside: int) -> str:
        """Describe a place: column and row, counted from 1, in a table, or the position in an array."""
        file = 0
        while file < len(self.parts) - 1 and row >= (length := len(np.atleast_1d(self.parts[file][name]))):
            file, row = file + 1, row - length
        of = f" of {self.paths[file].name}" if len(self.paths) > 1 else ""
        if self.is_table:
            return f"{name}{''.join(f'[{i}]' for i in inside)} in row {row + 1}{of}"
        return f"{name}[{', '.join(map(str, (row, *inside)))}]{of}"


def shown(value: Any) -> str:
    """Show a value, with its type if it is not a number."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"{value}"
    return f"{value!r} (str)" if isinstance(value, str) else f"{value} ({type(value).__name__})"


def _no_numbers(values: np.ndarray) -> np.ndarray:  # bool, same shape
    """Where values of a column of text or objects are no numbers: everywhere, if all look like numbers."""
    import pandas as pd

    parsed = pd.to_numeric(pd.Series(values.ravel()).astype(str), errors="coerce").to_numpy(np.float64)
    wrong = np.isnan(parsed).reshape(values.shape)
    return wrong | ~wrong.any()


def _is_whole(values: np.ndarray) -> np.ndarray:  # bool, same shape
    return np.isfinite(values) & (np.floor(values) == values) & (np.abs(values.astype(np.float64)) < 2.0**63)

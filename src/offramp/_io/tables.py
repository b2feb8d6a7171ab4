"""Tables as Parquet or CSV files, checked when they are read."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp._io.writing import AGAIN, whole_file

if TYPE_CHECKING:
    import pandas as pd


TABLE_SUFFIXES = (".parquet", ".csv")


def write_table(frame: "pd.DataFrame", path: str | os.PathLike) -> None:
    """Write a table as Parquet or CSV, as the name's ending says."""
    suffix = Path(path).suffix
    if suffix not in TABLE_SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(TABLE_SUFFIXES)}")
    with whole_file(path) as partial:
        if suffix == ".parquet":
            frame = frame.copy(deep=False)
            # Parquet's checksums are of the pages, not of what says where they are
            frame.attrs = {"offramp": _outline(frame)}
            frame.to_parquet(partial, index=False, write_page_checksum=True)
        else:
            frame.to_csv(partial, index=False)


def read_table(path: str | os.PathLike) -> "pd.DataFrame":
    """Read a table; a Parquet file that `write_table` wrote is checked to be what was written.

    Raises
    ------
    ValueError
        If it is no table or damaged.
    """
    import pandas as pd

    try:
        if Path(path).suffix == ".csv":
            return pd.read_csv(path)
        frame = pd.read_parquet(path, page_checksum_verification=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # of a damaged file pyarrow and pandas raise whatever they stumble over
        raise ValueError(
            f"{path}: not a readable table ({' '.join(str(error).split())}); if damaged, {AGAIN}"
        ) from None
    outline = _outline(frame)
    if frame.attrs.pop("offramp", outline) != outline:  # other programs write none
        raise ValueError(f"{path}: its rows or columns are not those that were written; {AGAIN}")
    return frame


def _outline(frame: "pd.DataFrame") -> dict[str, Any]:
    return {"rows": len(frame), "columns": {name: dtype.kind for name, dtype in frame.dtypes.items()}}

"""Tables in Parquet or CSV files, verified when they are read."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offramp._io.writing import AGAIN, whole_file

if TYPE_CHECKING:
    import pandas as pd


TABLE_SUFFIXES = (".parquet", ".csv")


def write_table(frame: "pd.DataFrame", path: str | os.PathLike) -> None:
    """Write a table as Parquet or CSV, depending on the file extension."""
    suffix = Path(path).suffix
    if suffix not in TABLE_SUFFIXES:
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(TABLE_SUFFIXES)}")
    with whole_file(path) as partial:
        if suffix == ".parquet":
            frame = frame.copy(deep=False)
            # The checksums of Parquet cover the pages, but not the metadata that locates them
            frame.attrs = {"offramp": _outline(frame)}
            frame.to_parquet(partial, index=False, write_page_checksum=True)
        else:
            frame.to_csv(partial, index=False)


def read_table(path: str | os.PathLike) -> "pd.DataFrame":
    """Read a table. Parquet files written by `write_table` are verified.

    Raises
    ------
    ValueError
        If the file is damaged or is not a table.
    """
    import pandas as pd

    try:
        if Path(path).suffix == ".csv":
            return pd.read_csv(path)
        frame = pd.read_parquet(path, page_checksum_verification=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # for damaged files, pyarrow and pandas raise exceptions of many types
        raise ValueError(
            f"{path}: not a readable table ({' '.join(str(error).split())}); if damaged, {AGAIN}"
        ) from None
    outline = _outline(frame)
    if frame.attrs.pop("offramp", outline) != outline:  # files of other programs have no outline
        raise ValueError(f"{path}: its rows or columns are not those that were written; {AGAIN}")
    frame.attrs.clear()
    return frame


def _outline(frame: "pd.DataFrame") -> dict[str, Any]:
    return {"rows": len(frame), "columns": {name: dtype.kind for name, dtype in frame.dtypes.items()}}

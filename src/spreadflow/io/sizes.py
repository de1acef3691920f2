"""How many rows products have: what is asked for a job depends on it, before the job is there."""

from collections.abc import Mapping
from pathlib import Path

import h5py

from spreadflow.io.store import N_ROWS


def rows_of(files: Mapping[str, str | list[str]]) -> dict[str, int]:
    """Return the rows of the tables of all products in parts among some files: argument and table,
    such as `reindex/reflections` → rows over the files of the argument.

    files: argument → file or files. Other files have none. Raises FileNotFoundError where one is
    not there yet.
    """
    n_rows: dict[str, int] = {}
    for name, paths in files.items():
        for path in [paths] if isinstance(paths, str) else paths:
            for table, n in _rows(path).items():
                key = f"{name}/{table}"
                n_rows[key] = n_rows.get(key, 0) + n
    return n_rows


def _rows(path: str) -> dict[str, int]:
    """Return the rows of the tables of a product in parts; none of another file."""
    Path(path).stat()  # names the file that is not there, as HDF5 does not
    try:
        with h5py.File(path, "r", locking=False) as f:
            tables = f.get(N_ROWS, {})
            return {table: int(tables[table][()].sum()) for table in tables}
    except OSError:  # text, or damaged: the stage that reads it says so
        return {}

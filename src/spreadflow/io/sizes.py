"""How many rows products have: what is asked for a job depends on it, before the job is there."""

from collections.abc import Mapping

import h5py

from spreadflow.io.store import N_ROWS


def rows_of(files: Mapping[str, str | list[str]]) -> dict[str, int]:
    """Return the rows of the tables of all products in parts among some files: argument and table,
    such as `reindex/reflections` → rows over the files of the argument.

    files: argument → file or files. Other files, and those that are not there yet, have none:
    Snakemake asks again when all that a job reads is there.
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
    try:
        with h5py.File(path, "r", locking=False) as f:
            tables = f.get(N_ROWS, {})
            return {table: int(tables[table][()].sum()) for table in tables}
    except OSError:  # not there, text, or damaged: the stage that reads it says so
        return {}

"""Prove that a change of the code changes no result: `make same BASE=<revision>`.

The script checks BASE out under `.same/`, makes it an environment from its own lock, runs the same
chain with BASE and with the working tree, and compares every dataset of every product and every
figure of every summary, bit for bit. Names that differ on purpose come from a YAML file of renamed
names: `old name: new name`, each a key, a dataset, a table/dataset, or a file. Clocks are left out,
and so are which rank did what, and the digests that tell which part belongs to which configuration.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (filters of compressed images)
import numpy as np
import pandas as pd
import yaml

from spreadflow.products import BY_KIND, Product

REPOSITORY = Path(__file__).parents[2]

SHORT_DEMO = {"n_single": 24, "n_blank": 2, "n_double": 2, "n_saturated": 1, "n_unreadable": 1}
"""Shots of the shortened demo, which runs every stage up to `spread` with its controls."""

CHAINS = {
    "tiny": ["--configfile", "config/tiny.yaml"],
    "demo": [
        "--configfile",
        "config/demo.yaml",
        "--config",
        f"runs={json.dumps({'demo': {'simulate': SHORT_DEMO}})}",
        "ladder={n_lattices: 4}",
    ],
}
"""Arguments of Snakemake for each chain; paths are those of the revision that runs."""

CLOCKS = ("seconds", "time", "reading", "growth")
"""A name that holds one of these words is a clock, or the memory of a process."""

DIGESTS = ("key", "software", "checksum", "sha256", "identity", "inputs", "products")
"""Names of what tells the configuration, the release or the bytes of a file: they follow the names,
not the results.
"""

RANKS = "ranks"
"""Name of what each rank had of the work, in summaries and in files of their own."""

PARTS = ".parts"
"""Suffix of the folder of the parts of a product."""

OF_MANIFESTS = ("parts", "n_rows")
"""Groups of a manifest that say how the product is cut into parts."""

FOLDERS_LEFT_OUT = ("logs", "benchmarks")
"""Folders of a trial that hold words and clocks alone."""


def is_left_out(name: str) -> bool:
    """Whether a name is that of a clock or a digest, or lies below one."""
    words = re.split("[/:]", name)
    is_clock = any(part in CLOCKS for word in words for part in word.split("_"))
    return is_clock or any(word in (*DIGESTS, RANKS) for word in words)


class Renamed:
    """The names that differ on purpose, old to new."""

    def __init__(self, names: dict[str, str]):
        self._names = names

    def __call__(self, name: str) -> str:
        """Return the new name of a path of words, of which any or all may have been renamed."""
        if name in self._names:
            return self._names[name]
        return "/".join(self._names.get(word, word) for word in name.split("/"))


def tables_of(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every dataset and every attribute of an HDF5 file; of a product in
    parts those of all parts together, however many there are.
    """
    parts = sorted(path.with_suffix(PARTS).glob("[0-9]*.h5"))
    with h5py.File(path, "r") as file:
        found: list[str] = []
        file.visit(found.append)
        if parts:
            found = [name for name in found if name.partition("/")[0] not in OF_MANIFESTS]
        for name in ["", *found]:
            item = file[name or "/"]
            for attribute, value in item.attrs.items():
                yield from leaves_of(f"{name}:{attribute}", decoded(value))
            if isinstance(item, h5py.Dataset):
                yield from frames_of(name, item)

    if parts:
        yield from joined(parts)


def joined(parts: list[Path]) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every dataset of parts, joined, and its attributes in the first. Row
    numbers are counted over all parts.
    """
    columns: dict[str, list[np.ndarray]] = {}
    n_before: dict[str, int] = {}
    for path in parts:
        with h5py.File(path, "r") as file:
            described = BY_KIND.get(file.attrs["kind"], Product).described()
            n_rows = {}
            for table, group in file.items():
                for column, item in group.items():
                    name = f"{table}/{column}"
                    rows = item[()]
                    n_rows[table] = len(rows)
                    refers = described[name].refers if name in described else ""
                    if refers:
                        rows = np.where(rows < 0, rows, rows + n_before.get(refers, 0))
                        rows = rows.astype(item.dtype)
                    if name not in columns:
                        for attribute, value in item.attrs.items():
                            yield f"{name}:{attribute}", decoded(value)
                    columns.setdefault(name, []).append(rows)
        for table, n in n_rows.items():
            n_before[table] = n_before.get(table, 0) + n
    for name, pieces in columns.items():
        yield name, np.concatenate(pieces)


def frames_of(name: str, item: h5py.Dataset) -> Iterator[tuple[str, Any]]:
    """Yield name and value of a dataset; one whose frames do not all decompress, frame by frame."""
    try:
        yield name, item[()]
    except OSError:
        for number in range(len(item)):
            try:
                yield f"{name}/{number}", item[number]
            except OSError:
                yield f"{name}/{number}", "does not decompress"


def decoded(value: Any) -> Any:
    """Return the value of an attribute; lists and mappings, which are stored as JSON, as such."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return json.loads(value)
    return value


def leaves_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield name and value of every leaf of nested dictionaries, and of every text of a list."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves_of(f"{name}/{key}", item)
    elif isinstance(value, list) and any(isinstance(item, dict | str) for item in value):
        for number, item in enumerate(value):
            yield from leaves_of(f"{name}/{number}", item)
    else:
        yield name, value


def values_of(path: Path) -> dict[str, Any]:
    """Return every value that a product or summary holds, by name; of other files the bytes."""
    if path.suffix in (".json", ".expt"):
        return dict(leaves_of("", json.loads(path.read_text())))
    if h5py.is_hdf5(path):
        return dict(tables_of(path))
    if path.suffix == ".csv":
        return dict(pd.read_csv(path, dtype=str).items())
    return {"bytes": path.read_bytes()}


def is_equal(one: Any, other: Any) -> bool:
    """Whether two values are equal bit for bit; NaN is equal to itself."""
    one = np.asarray(one)
    other = np.asarray(other)
    if one.dtype.kind in "OSU" or one.dtype.names:
        return one.tolist() == other.tolist()
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


def products_of(folder: Path) -> dict[str, Path]:
    """Return the data, products and summaries below a folder, by relative path."""
    paths = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        is_picture = path.suffix in (".png", ".html")
        is_of_ranks = path.suffixes[-2:] == [f".{RANKS}", ".json"]
        if (
            path.is_file()
            and not is_picture
            and not is_of_ranks
            and not set(name.parts) & {*FOLDERS_LEFT_OUT, ".snakemake"}
            and not any(folder.endswith(PARTS) for folder in name.parts[:-1])
        ):
            paths[str(name)] = path
    return paths


def without_folder(value: Any, folder: Path) -> Any:
    """Return a value with the folder of its chain cut out of paths."""
    return value.replace(f"{folder}/", "") if isinstance(value, str) else value


def compare(base: Path, changed: Path, renamed: Renamed) -> tuple[list[str], int]:
    """Compare two folders of results. Returns the differences, a line each, and the number of
    values compared.
    """
    differences: list[str] = []
    n_compared = 0
    before = {renamed(name): path for name, path in products_of(base).items()}
    after = products_of(changed)
    for name in sorted(before.keys() ^ after.keys()):
        differences.append(f"{name}: only in {'BASE' if name in before else 'the working tree'}")
    for name in sorted(before.keys() & after.keys()):
        old = {renamed(key): value for key, value in values_of(before[name]).items()}
        new = values_of(after[name])
        for key in sorted(old.keys() ^ new.keys()):
            if not is_left_out(key):
                differences.append(
                    f"{name} {key}: only in {'BASE' if key in old else 'the working tree'}"
                )
        for key in sorted(old.keys() & new.keys()):
            if is_left_out(key):
                continue
            n_compared += 1
            if not is_equal(without_folder(old[key], base), without_folder(new[key], changed)):
                differences.append(f"{name} {key}: differs")
    return differences, n_compared


def run_chain(checkout: Path, environment: Path, chain: str, folder: Path, cores: int) -> None:
    """Run a chain with the code of a checkout in a new folder. Raises CalledProcessError where it
    fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = [str(checkout / word) if word.startswith("config/") else word for word in CHAINS[chain]]
    command = [
        environment / "bin" / "snakemake",
        "--snakefile",
        checkout / "Snakefile",
        "--cores",
        str(cores),
    ]
    variables = os.environ | {
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{checkout / 'src'}",
    }
    subprocess.run(
        [*map(str, command), "--quiet", "host", *words], cwd=folder, env=variables, check=True
    )


def check_out(base: str, folder: Path) -> Path:
    """Return a checkout of BASE with an environment of its own, made where it is not there yet."""
    commit = subprocess.run(
        ["git", "rev-parse", "--verify", f"{base}^{{commit}}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    if commit.returncode:
        sys.exit(f"BASE: expected a revision; found {base!r}. Give one: make same BASE=<revision>")
    checkout = folder / commit.stdout.strip()[:12]
    if not checkout.is_dir():
        checkout.mkdir(parents=True)
        archive = subprocess.Popen(
            ["git", "archive", commit.stdout.strip()], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", checkout], stdin=archive.stdout, check=True)
    subprocess.run(["make", "--no-print-directory", "-C", checkout, "setup"], check=True)
    return checkout


def main() -> int:
    """Run both chains and print what differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="revision to compare the working tree with")
    parser.add_argument("--chain", choices=CHAINS, default="tiny", help="what to run")
    parser.add_argument("--renamed", type=Path, help="YAML file of renamed names, old to new")
    parser.add_argument("--cores", type=int, default=2, help="cores of each chain")
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / ".same", help="where checkouts and results lie"
    )
    arguments = parser.parse_args()
    names = yaml.safe_load(arguments.renamed.read_text()) if arguments.renamed else {}
    checkout = check_out(arguments.base, arguments.folder.resolve())
    folder = arguments.folder.resolve()
    base = folder / f"{checkout.name}-{arguments.chain}"
    if not (base / "finished").exists():
        run_chain(checkout, checkout / ".venv", arguments.chain, base, arguments.cores)
        (base / "finished").touch()
    changed = folder / f"working-tree-{arguments.chain}"
    run_chain(REPOSITORY, Path(sys.prefix), arguments.chain, changed, arguments.cores)
    (changed / "finished").touch()
    differences, n_compared = compare(base, changed, Renamed(names or {}))
    for line in differences[:100]:
        print(line)
    if len(differences) > 100:
        print(f"... and {len(differences) - 100} more")
    print(
        f"{n_compared} values compared with {arguments.base}, chain {arguments.chain}: "
        f"{len(differences)} differ"
    )
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())

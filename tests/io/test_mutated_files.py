"""Files whose structure was damaged end in one clear error or cost their own shots: no traceback,
no hang, no memory beyond 2 GiB.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import mutated_files
import nexus_dialects as dialects

N_FILES = 50


def _structure(path: Path) -> list[tuple[int, int]]:
    """Return the ranges of bytes of an HDF5 file that hold no pixels."""
    pixels = []
    with h5py.File(path) as f:
        for name in (dialects.DATA, f"{dialects.SENSOR}/pixel_mask"):
            chunks = f[name].id
            for number in range(chunks.get_num_chunks()):
                chunk = chunks.get_chunk_info(number)
                pixels.append((chunk.byte_offset, chunk.byte_offset + chunk.size))
    edges = [0, *(edge for ends in sorted(pixels) for edge in ends), path.stat().st_size]
    return list(zip(edges[::2], edges[1::2], strict=True))


def endings(path: Path, structure: list[tuple[int, int]], n: int, seed: int = 1) -> dict:
    """Return how reading mutated files ends."""
    how = {"path": str(path), "structure": structure, "n": n, "seed": seed}
    program = mutated_files.__file__
    command = [sys.executable, program, json.dumps(how)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"errors": done.stderr}


@pytest.mark.stage
def test_nexus_files_with_changed_bytes_are_read_or_refused(tmp_path):
    """Crashes within libhdf5 are not ours, and are few."""
    path = tmp_path / "a.nxs"
    dialects.write(path)
    result = endings(path, _structure(path), N_FILES)
    counts = result["endings"]
    assert sum(counts.values()) == N_FILES
    assert counts.get("refused", 0) > 5
    assert not {"traceback", "hang"} & set(counts), (counts, result["errors"])
    assert counts.get("crash", 0) <= 1, counts


NONSENSE = {
    "empty": np.empty(0),
    "text": "nonsense",
    "bytes that are no UTF-8": np.bytes_(b"\xff\xfe"),
    "nan": np.nan,
    "negative": -7,
    "huge": 1e300,
    "three numbers": np.arange(3.0),
    "a cube": np.ones((2, 2, 2)),
    "a record": np.zeros(2, [("a", "i4"), ("b", "f4")]),
}
"""Values that no item of a file should have."""


def _items(path: Path) -> list[tuple[str, str | None]]:
    """Return the paths of all items of a file, and again with the name of each attribute."""
    found: list[tuple[str, str | None]] = []
    with h5py.File(path) as f:

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            found.append((name, None))
            found.extend((name, attribute) for attribute in item.attrs)

        f.visititems(visit)
    return found


N_FOR_EACH = 2
"""Kinds of nonsense that each item is given in turn; all of them take half a minute."""


@pytest.mark.stage
def test_an_item_that_holds_nonsense_is_read_or_refused(tmp_path):
    """One item or attribute after the other, also a dataset in place of a group, or the other way
    round.
    """
    whole = tmp_path / "whole.nxs"
    dialects.write(whole)
    content = whole.read_bytes()
    path = tmp_path / "a.nxs"
    endings_of = set()
    kinds = itertools.cycle(NONSENSE)
    for name, attribute in _items(whole) * N_FOR_EACH:
        nonsense = next(kinds)
        path.write_bytes(content)
        with h5py.File(path, "r+") as f:
            if attribute is not None:
                f[name].attrs[attribute] = NONSENSE[nonsense]
            elif nonsense == "empty" and isinstance(f[name], h5py.Dataset):
                del f[name]
                f.create_group(name)
            else:
                del f[name]
                f[name] = NONSENSE[nonsense]
        endings_of.add(mutated_files.read(path))
    assert endings_of == {mutated_files.READ, mutated_files.REFUSED}

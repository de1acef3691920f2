"""Files whose structure was damaged end in one clear error or cost their own shots: no traceback,
no hang, no memory beyond 2 GiB.
"""

import json
import subprocess
import sys
from pathlib import Path

import h5py
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

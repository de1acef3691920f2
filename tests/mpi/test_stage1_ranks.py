"""stage1 under a launcher: killed on two ranks it goes on from its finished pieces on one, to the
product of three.
"""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from spreadflow.config import parse, section
from spreadflow.io import store
from spreadflow.products import Stage1

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
DYING = Path(__file__).with_name("dying.py")
CLI = ["-m", "spreadflow.cli"]
pytestmark = pytest.mark.chain


def run(packed_run, out: Path, ranks: int, program: list[object]) -> int:
    config = section(
        parse(packed_run.tree | {"stage1": {"block_lattices": 1, "oversample": 1}}), "stage1"
    )
    words = [
        LAUNCHER,
        "-n",
        ranks,
        sys.executable,
        *program,
        "stage1",
        "--config",
        config,
        "--ranks",
        ranks,
    ]
    words += ["--shoeboxes", packed_run.annulus, "--out", out]
    return subprocess.run([*map(str, words)], timeout=240).returncode


def test_any_number_of_ranks_gives_the_same_also_when_killed(packed_run, tmp_path):
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    whole = tmp_path / "three" / "stage1.h5"
    out = tmp_path / "killed" / "stage1.h5"

    assert run(packed_run, whole, 3, CLI) == 0
    assert run(packed_run, out, 2, [DYING, "000002-000003.h5"]) != 0

    parts = out.with_suffix(".parts")
    finished = {path.stem: _seconds(path) for path in parts.glob("000000/[0-9]*.h5")}
    assert finished
    assert "000002-000003" not in finished
    assert not out.exists()
    assert not out.with_suffix(".csv").exists()
    assert run(packed_run, out, 1, CLI) == 0

    assert [path.name for path in parts.iterdir()] == ["000000.h5"]
    seconds = _seconds(parts / "000000.h5")
    for stem, of_piece in finished.items():
        first, _, end = stem.partition("-")
        np.testing.assert_array_equal(seconds[int(first) : int(end)], of_piece)

    ours = store.read(out, Stage1)
    theirs = store.read(whole, Stage1)
    assert len(ours.reflections.hkl) > 80
    for name, column in theirs.datasets().items():
        if name != Stage1.lattices.seconds.path:
            np.testing.assert_array_equal(ours.datasets()[name], column, err_msg=name)

    attributes = [store.attributes(path, Stage1) for path in (out, whole)]
    assert attributes[0]["key"] == attributes[1]["key"]
    assert attributes[0]["outcomes"] == attributes[1]["outcomes"]

    lines = [path.with_suffix(".csv").read_text().splitlines() for path in (out, whole)]
    but_seconds = [[line.rsplit(",", 1)[0] for line in table] for table in lines]
    assert but_seconds[0] == but_seconds[1]
    assert len(lines[0]) == 5


def _seconds(path: Path) -> np.ndarray:
    """Return the time spent on each lattice: it tells whether a lattice was refined again."""
    with h5py.File(path) as file:
        return file[Stage1.lattices.seconds.path][()]

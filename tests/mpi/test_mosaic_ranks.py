"""mosaic under a launcher: one distribution learned by two ranks is that of one, to the last
bit.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spreadflow.config import parse, section
from spreadflow.io import store
from spreadflow.products import Mosaic

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
DYING = Path(__file__).with_name("dying.py")
CLI = ["-m", "spreadflow.cli"]
SHARED = {"max_lattices": 4}
ALONE = {"scope": "per_lattice", "range": "annulus", "block_lattices": 1}
pytestmark = pytest.mark.long


def run(packed_run, out: Path, ranks: int, program: list[object], keys: dict) -> int:
    config = section(
        parse(packed_run.tree | {"mosaic": {"oversample": 1, **keys}}),
        "mosaic",
    )
    words = [
        LAUNCHER,
        "-n",
        ranks,
        sys.executable,
        *program,
        "mosaic",
        "--config",
        config,
        "--ranks",
        ranks,
    ]
    words += ["--shoeboxes", packed_run.annulus, "--out", out]
    return subprocess.run([*map(str, words)], timeout=240).returncode


def same(ours: Path, theirs: Path) -> None:
    """Assert that two products have the same columns but the time spent, key and outcomes."""
    learned = store.read(ours, Mosaic)
    expected = store.read(theirs, Mosaic)
    assert len(learned.components) > 10
    for name, column in expected.datasets().items():
        if name != Mosaic.lattices.seconds.path:
            np.testing.assert_array_equal(learned.datasets()[name], column, err_msg=name)

    attributes = store.attributes(ours, Mosaic)
    expected_attributes = store.attributes(theirs, Mosaic)
    assert attributes["key"] == expected_attributes["key"]
    assert attributes["outcomes"] == expected_attributes["outcomes"]


@pytest.fixture(autouse=True)
def launcher():
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")


def test_any_number_of_ranks_learns_the_same(packed_run, tmp_path):
    one, two = (tmp_path / name / "mosaic.h5" for name in ("one", "two"))
    assert run(packed_run, one, 1, CLI, SHARED) == 0
    assert run(packed_run, two, 2, CLI, SHARED) == 0
    same(two, one)


def test_a_killed_stage_goes_on_where_it_was(packed_run, tmp_path):
    whole = tmp_path / "three" / "mosaic.h5"
    out = tmp_path / "killed" / "mosaic.h5"
    assert run(packed_run, whole, 3, CLI, ALONE) == 0
    assert run(packed_run, out, 2, [DYING, "000002.h5"], ALONE) != 0

    parts = out.with_suffix(".parts")
    finished = {path.name: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.h5")}
    assert finished
    assert "000002.h5" not in finished
    assert not out.exists()
    assert run(packed_run, out, 1, CLI, ALONE) == 0

    after = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert len(after) == 4
    assert finished.items() <= after.items()
    same(out, whole)

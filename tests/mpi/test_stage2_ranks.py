"""stage2 under a launcher: killed on two ranks in its second cycle it goes on from its finished
parts on one, to the intensities of three.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spreadflow.config import parse, section
from spreadflow.io import store
from spreadflow.products import Stage2

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
DYING = Path(__file__).with_name("dying.py")
CLI = ["-m", "spreadflow.cli"]
SECONDS = {"lattices/seconds", "cycles/seconds"}
"""Columns that differ from run to run."""

CLOSE = 1e-6
"""Difference relative to the largest of a column: sums over ranks depend on their number by
rounding.
"""

COUNTS = {"cycles/n_iterations": 3}
"""Columns of counts → how far they may be apart: rounding may end a solve a step sooner."""

pytestmark = pytest.mark.long


def run(stage2_run, out: Path, ranks: int, program: list) -> int:
    config = section(parse(stage2_run.tree), "stage2")
    words = [LAUNCHER, "-n", ranks, sys.executable, *program, "stage2"]
    words += ["--config", config, "--ranks", ranks, "--pack", stage2_run.pack]
    words += ["--stage1", stage2_run.stage1, "--merge", stage2_run.merge, "--out", out]
    return subprocess.run([*map(str, words)], timeout=240).returncode


def assert_same(ours: Stage2, theirs: Stage2) -> None:
    others = theirs.datasets()
    for name, column in ours.datasets().items():
        if name not in SECONDS:
            close = CLOSE * np.nanmax(np.abs(column), initial=1.0, where=np.isfinite(column))
            atol = COUNTS.get(name, close)
            np.testing.assert_allclose(column, others[name], rtol=0, atol=atol, err_msg=name)


def test_any_number_of_ranks_gives_the_same_also_when_killed(stage2_run, tmp_path):
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    three = tmp_path / "three" / "stage2.h5"
    out = tmp_path / "killed" / "stage2.h5"
    assert run(stage2_run, three, 3, CLI) == 0
    assert run(stage2_run, out, 2, [DYING, "2.parts/000002.h5"]) != 0

    grams = out.with_suffix(".gram")
    finished = {path: path.stat().st_mtime_ns for path in grams.glob("*.parts/*.h5")}
    assert (grams / "1.h5").exists()
    assert grams / "2.parts" / "000002.h5" not in finished
    assert not out.exists() and not out.with_suffix(".mtz").exists()
    assert run(stage2_run, out, 1, CLI) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())

    whole = store.read(three, Stage2)
    assert len(whole.cycles.change) == 2
    assert_same(store.read(out, Stage2), whole)

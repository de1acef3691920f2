"""spread under a launcher: killed on two ranks it goes on from its finished parts on one, to the
curves of three.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spreadflow.config import parse, section
from spreadflow.io import store

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
DYING = Path(__file__).with_name("dying.py")
CLI = ["-m", "spreadflow.cli"]
pytestmark = pytest.mark.chain


def run(wide_run, out: Path, ranks: int, program: list[object], **keys) -> int:
    config = section(parse(wide_run.tree | {"spread": wide_run.tree["spread"] | keys}), "spread")
    words = [
        LAUNCHER,
        "-n",
        ranks,
        sys.executable,
        *program,
        "spread",
        "--config",
        config,
        "--ranks",
        ranks,
    ]
    words += ["--shoeboxes", wide_run.wide, "--stage1", wide_run.stage1, "--out", out]
    return subprocess.run([*map(str, words)], timeout=240).returncode


def test_any_number_of_ranks_gives_the_same_also_when_killed(wide_run, tmp_path):
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    whole = tmp_path / "three" / "spread.h5"
    out = tmp_path / "killed" / "spread.h5"

    assert run(wide_run, whole, 3, CLI) == 0
    assert run(wide_run, out, 2, [DYING, "000002.h5"]) != 0

    parts = out.with_suffix(".gram") / "1.parts"
    finished = {path.name: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.h5")}
    assert finished
    assert "000002.h5" not in finished
    assert not out.exists()
    assert not out.with_suffix(".csv").exists()
    assert run(wide_run, out, 1, CLI) == 0

    after = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert len(after) == 4
    assert finished.items() <= after.items()

    ours = store.read(out, "spread")
    theirs = store.read(whole, "spread")
    assert np.isfinite(ours["curves/fp"]).all()
    assert np.ptp(ours["curves/fp"]) > 1

    for name, column in ours.items():
        if name != "lattices/seconds":
            scale = np.nanmax(np.abs(column), initial=1.0)
            np.testing.assert_allclose(
                column, theirs[name], rtol=0, atol=1e-8 * scale, err_msg=name
            )
    controls = [store.attributes(path, "spread")["controls"] for path in (out, whole)]

    assert [row["passed"] for row in controls[0]] == [row["passed"] for row in controls[1]]

    refined = [
        refined_with_reflections(wide_run, out, tmp_path / str(ranks), ranks) for ranks in (1, 3)
    ]
    for name, column in refined[0].items():
        if name != "lattices/seconds":
            np.testing.assert_array_equal(column, refined[1][name], err_msg=name)


def refined_with_reflections(
    wide_run, before: Path, folder: Path, ranks: int
) -> dict[str, np.ndarray]:
    """Return the columns after one cycle, which refines amplitudes too, on the matrices that
    another run left.
    """
    shutil.copytree(before.with_suffix(".gram"), folder / "spread.gram")
    keys = {"refine_f0": True, "controls": False, "max_cycles": 1}
    assert run(wide_run, folder / "spread.h5", ranks, CLI, **keys) == 0
    return store.read(folder / "spread.h5", "spread")

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
from spreadflow.products import Spread

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
DYING = Path(__file__).with_name("dying.py")
CLI = ["-m", "spreadflow.cli"]
RELATIVE = 1e-6
"""Difference between numbers of ranks, relative to the largest of a column: sums over ranks are
added in another order.
"""

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

    ours = store.read(out, Spread)
    theirs = store.read(whole, Spread)
    assert np.isfinite(ours.curves.fp).all()
    assert np.ptp(ours.curves.fp) > 1
    assert_same(ours, theirs)
    controls = [store.attributes(path, Spread)["controls"] for path in (out, whole)]
    assert [row["passed"] for row in controls[0]] == [row["passed"] for row in controls[1]]

    keys = {"unknown_f": "complex", "controls": False, "max_cycles": 2}
    on_one, on_four = (
        refined_again(wide_run, out, tmp_path / f"again-{ranks}", ranks, **keys) for ranks in (1, 4)
    )
    assert np.abs(on_one.curves.fp - ours.curves.fp).max() > 1e-3
    assert_same(on_one, on_four)


@pytest.mark.long
def test_real_factors_are_the_same_on_any_number_of_ranks(wide_run, tmp_path):
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    keys = {"unknown_f": "real", "controls": False, "max_cycles": 1}
    products = [tmp_path / str(ranks) / "spread.h5" for ranks in (1, 4)]
    for path, ranks in zip(products, (1, 4), strict=True):
        assert run(wide_run, path, ranks, CLI, **keys) == 0
    assert_same(*(store.read(path, Spread) for path in products))


def assert_same(ours: Spread, theirs: Spread) -> None:
    """Assert that all columns agree but for rounding."""
    others = theirs.datasets()
    for name, column in ours.datasets().items():
        if name != "lattices/seconds":
            atol = RELATIVE * np.nanmax(np.abs(column), initial=1.0)
            np.testing.assert_allclose(column, others[name], rtol=0, atol=atol, err_msg=name)


def refined_again(wide_run, before: Path, folder: Path, ranks: int, **keys) -> Spread:
    """Return the product of a run that goes on from the first matrices that another run left. Of
    four ranks one has no lattice that could be used.
    """
    folder.mkdir()
    grams = folder / "spread.gram"
    shutil.copytree(before.with_suffix(".gram"), grams, ignore=shutil.ignore_patterns("2.*"))
    assert run(wide_run, folder / "spread.h5", ranks, CLI, **keys) == 0
    return store.read(folder / "spread.h5", Spread)

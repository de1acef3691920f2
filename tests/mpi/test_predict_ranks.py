"""predict and pack under a launcher: killed on two ranks predict goes on from its finished blocks
on one, to the product of three; and pack makes the same of either.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spreadflow.config import overlay, parse, section
from spreadflow.io import store
from spreadflow.products import Pack, Predict, Product

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
DYING = Path(__file__).with_name("dying.py")
CLI = ["-m", "spreadflow.cli"]
pytestmark = pytest.mark.long


def run(refined_run, word: str, inputs: list, out: Path, ranks: int, program: list) -> int:
    tree = overlay(refined_run.tree, {"pack": {"block_lattices": 1}})
    words = [LAUNCHER, "-n", ranks, sys.executable, *program, word]
    words += ["--config", section(parse(tree), word), "--ranks", ranks]
    words += ["--images", refined_run.manifest, *inputs, "--out", out]
    return subprocess.run([*map(str, words)], timeout=240).returncode


def assert_same(product: type[Product], ours: Path, theirs: Path) -> None:
    columns = [store.read(path, product).datasets() for path in (ours, theirs)]
    for name in columns[0].keys() - {Predict.lattices.seconds.path}:
        np.testing.assert_array_equal(columns[0][name], columns[1][name], err_msg=name)
    first, second = (store.attributes(path, product) for path in (ours, theirs))
    assert first["key"] == second["key"]


def test_any_number_of_ranks_gives_the_same_also_when_killed(refined_run, tmp_path):
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    whole = tmp_path / "three" / "predict.h5"
    out = tmp_path / "killed" / "predict.h5"
    inputs = ["--reindex", refined_run.reindex, "--stage1", refined_run.stage1]
    assert run(refined_run, "predict", inputs, whole, 3, CLI) == 0
    assert run(refined_run, "predict", inputs, out, 2, [DYING, "000006.h5"]) != 0
    assert not out.exists() and not out.with_suffix(".refl").exists()
    parts = out.with_suffix(".parts")
    finished = {path.name: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.h5")}
    assert finished and "000006.h5" not in finished

    assert run(refined_run, "predict", inputs, out, 1, CLI) == 0
    after = {path.name: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert finished.items() <= after.items()
    assert_same(Predict, out, whole)
    for suffix in (".expt", ".refl"):
        ours, theirs = (path.with_suffix(suffix).read_bytes() for path in (out, whole))
        assert ours == theirs, suffix

    packed = [path.with_name("pack.h5") for path in (out, whole)]
    for path, ranks in zip(packed, (1, 2), strict=True):
        inputs = ["--reindex", refined_run.reindex, "--predict", path.with_name("predict.h5")]
        assert run(refined_run, "pack", inputs, path, ranks, CLI) == 0
    assert_same(Pack, *packed)

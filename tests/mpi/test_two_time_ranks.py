"""Correlation of each two shots on ranks: as in one process."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

MPIEXEC = shutil.which("mpiexec", path=Path(sys.prefix, "bin")) or shutil.which("mpiexec")

SECTION = {
    "simulated": {"n_shots": 200, "shape": [7, 9], "missing": 0.1, "disordered": 0.1},
    "delays": [1, 2, 5],
    "buffer_shots": 70,
    "block_shots": 32,
    "two_time": {"n_shots": 50, "n_ages": 2},
}


@pytest.mark.chain
def test_workers_that_share_pixels_give_the_same_numbers(tmp_path):
    assert MPIEXEC, "no mpiexec: install the extra `mpi`"
    np.save(tmp_path / "colours.npy", np.arange(63).reshape(7, 9) % 3)
    for name, launcher in (("one", []), ("ranks", [MPIEXEC, "-n", "5"])):
        own = {"out": str(tmp_path / f"{name}.h5"), "colours": str(tmp_path / "colours.npy")}
        config = tmp_path / f"{name}.yaml"
        config.write_text(json.dumps({"correlate": SECTION | own}))
        words = [sys.executable, "-m", "spreadflow.cli", "correlate", "-c", str(config)]
        done = subprocess.run([*launcher, *words], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "one.h5") as one, h5py.File(tmp_path / "ranks.h5") as ranks:
        (update,) = one["user"]
        for name, values in one["user"][update]["two_time"].items():
            others = ranks["user"][update]["two_time"][name]
            np.testing.assert_allclose(others, values, rtol=1e-12)

"""Image i is the same, byte for byte, on any number of ranks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MPIEXEC = shutil.which("mpiexec", path=Path(sys.prefix, "bin")) or shutil.which("mpiexec")
SECTIONS = {
    "seed": 3,
    "shots": {"n_single": 4, "n_blank": 1, "n_double": 1},
    "crystal": {"cell": [30.0, 26.0, 22.0, 90.0, 108.0, 90.0], "d_min": 3.0, "n_domains": 3, "domain_ang": 1000.0},
    "beam": {"n_channels": 10, "first_channel_ev": 7100.5, "channel_ev": 4.0},
    "detector": {"shape": [64, 64], "pixel_mm": 1.0, "distance_mm": 60.0, "psf_fwhm_mm": 0.5},
    "simulate": {"block_shots": 1, "oversample": 2},
}


@pytest.mark.slow
@pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra `mpi`")
def test_images_and_manifest_do_not_depend_on_the_number_of_ranks(tmp_path):
    made = {}
    for ranks in (1, 2, 4):
        out = tmp_path / str(ranks) / "manifest.json"
        words = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
        words += [sys.executable, "-m", "spreadflow.cli", "simulate", "--config", json.dumps(SECTIONS), "--run", "r"]
        words += ["--ranks", str(ranks), "--out", str(out)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        files = sorted(out.parent.glob("images/*.nxs"))
        assert len(files) == 6
        made[ranks] = [path.read_bytes() for path in [*files, out]]
    assert made[1] == made[2] == made[4]

"""Image i is the same, byte for byte, on any number of ranks, and also when the stage was killed on
the way.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MPIEXEC = shutil.which("mpiexec", path=Path(sys.prefix, "bin")) or shutil.which("mpiexec")
DYING = Path(__file__).with_name("dying.py")
SECTIONS = {
    "seed": 3,
    "shots": {"n_single": 4, "n_blank": 1, "n_double": 1},
    "crystal": {
        "cell": [30.0, 26.0, 22.0, 90.0, 108.0, 90.0],
        "n_domains": 3,
        "domain_ang": 1000.0,
    },
    "structure_factors": {
        "cell": [30.0, 26.0, 22.0, 90.0, 108.0, 90.0],
        "space_group": "C 1 2 1",
        "d_min": 3.0,
    },
    "beam": {"n_channels": 10, "first_channel_ev": 7100.5, "channel_ev": 4.0},
    "detector": {"shape": [64, 64], "pixel_mm": 1.0, "distance_mm": 60.0},
    "recording": {"psf_fwhm_mm": 0.5},
    "simulate": {"block_shots": 1, "oversample": 2},
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(MPIEXEC is None, reason="no mpiexec: install the extra `mpi`"),
]


def simulate(folder: Path, ranks: int, *program: object) -> subprocess.CompletedProcess:
    words = [MPIEXEC, "-n", ranks] if ranks > 1 else []
    words += [
        sys.executable,
        *(program or ("-m", "spreadflow.cli")),
        "simulate",
        "--config",
        json.dumps(SECTIONS),
    ]
    words += ["--run", "r", "--ranks", ranks, "--out", folder / "manifest.json"]
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300)


def contents(folder: Path) -> list[bytes]:
    """Return the bytes of all images and of the manifest."""
    files = sorted(folder.glob("images/*"))
    assert len(files) == 6, files
    return [path.read_bytes() for path in [*files, folder / "manifest.json"]]


def test_any_number_of_ranks_gives_the_same_also_when_killed(tmp_path):
    """Killed on two while the fourth file is finished, continued on one; four ranks at once."""
    killed = tmp_path / "killed"
    assert simulate(killed, 2, DYING, "r_00003.nxs").returncode != 0

    finished = {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in killed.glob("images/r_*.nxs")
    }

    assert len(finished) >= 2
    assert not (killed / "manifest.json").exists()
    assert not (killed / "images" / "r_00003.nxs").exists()

    completed = simulate(killed, 1)
    assert completed.returncode == 0, completed.stderr
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished} == finished

    whole = tmp_path / "four"
    completed = simulate(whole, 4)
    assert completed.returncode == 0, completed.stderr
    assert contents(killed) == contents(whole)

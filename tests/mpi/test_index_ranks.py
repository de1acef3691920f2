"""index under a launcher: the same product on one rank and on two, and a killed stage goes on where
it was.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from spreadflow.io import store
from spreadflow.products import Index

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
pytestmark = pytest.mark.chain

DYING = """
import os, signal, sys
from spreadflow import cli
from spreadflow.io import store
from spreadflow.stages import shots

shots.LARGEST_PIECE = 2
write = store.write_part
written = []

def fourth_kills(path, *content):
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(path)
    write(path, *content)

store.write_part = fourth_kills
sys.exit(cli.main(sys.argv[1:]))
"""
"""the command line, killed where the fourth piece would be written"""


@pytest.fixture
def command(tiny_run):
    """A function that gives the command line of `index` on the tiny run, on so many ranks."""
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    how = {
        "cell": tiny_run["cell"],
        "space_group": tiny_run["space_group"],
        "d_min": 2.4,
        "domain_ang": 1500.0,
    }
    config = json.dumps({"index": how | {"n_directions": 4096}, "recording": {}})

    def words(out: Path, ranks: int) -> list[str]:
        stage = [
            sys.executable,
            "-m",
            "spreadflow.cli",
            "index",
            "--config",
            config,
            "--ranks",
            str(ranks),
        ]
        stage += ["--images", str(tiny_run["manifest"]), "--out", str(out)]
        return [str(LAUNCHER), "-n", str(ranks), *stage] if ranks > 1 else stage

    return words


def same(a: Path, b: Path) -> None:
    """Assert that two products are equal in every dataset but the time spent, and in every
    attribute but the clock.
    """
    first = store.read(a, Index)
    second = store.read(b, Index)
    first.shots.seconds = second.shots.seconds
    for path, column in first.datasets().items():
        np.testing.assert_array_equal(column, second.datasets()[path], err_msg=path)
    attributes = [
        {k: v for k, v in store.attributes(path, Index).items() if k != "time"} for path in (a, b)
    ]
    assert attributes[0] == attributes[1]


def test_products_are_equal_and_a_killed_stage_resumes(command, tmp_path):
    one = tmp_path / "one" / "index.h5"
    two = tmp_path / "two" / "index.h5"
    subprocess.run(command(one, 1), check=True, timeout=120)

    words = command(two, 1)
    words[1:3] = ["-c", DYING]
    killed = subprocess.run(words, timeout=120)
    parts = two.with_suffix(".parts")
    pieces = sorted(parts.glob("000000/[0-9]*.h5"))

    assert killed.returncode == -signal.SIGKILL
    assert [path.stem for path in pieces] == ["000000-000002", "000002-000004", "000004-000006"]
    assert not two.exists()
    seconds = np.concatenate([_seconds(path) for path in pieces])

    subprocess.run(command(two, 2), check=True, timeout=120)
    assert [path.name for path in parts.iterdir()] == ["000000.h5"]
    same(one, two)
    again = store.read(two, Index, [Index.shots.seconds]).shots.seconds
    np.testing.assert_array_equal(again[:6], seconds, err_msg="they are not made again")


def _seconds(path: Path) -> np.ndarray:
    with h5py.File(path) as piece:
        return piece[Index.shots.seconds.path][()]

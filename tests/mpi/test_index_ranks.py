"""index under a launcher: the same product on one rank and on two, and a killed stage goes on where
it was.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spreadflow.io import store

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
pytestmark = pytest.mark.chain

DYING = """
import os, signal, sys
from spreadflow import cli
from spreadflow.io import store

write = store.Parts.write

def fourth_kills(parts, block, columns):
    if block == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    write(parts, block, columns)

store.Parts.write = fourth_kills
sys.exit(cli.main(sys.argv[1:]))
"""
"""the command line, killed where the fourth block would be written"""


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
    config = json.dumps({"index": how | {"block_shots": 1, "n_directions": 4096}})

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
    first = store.read(a, "index")
    second = store.read(b, "index")
    for name in first.keys() - {"shots/seconds"}:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    attributes = [
        {k: v for k, v in store.attributes(path, "index").items() if k != "time"} for path in (a, b)
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
    finished = {p.name: p.stat().st_mtime_ns for p in parts.glob("[0-9]*.h5")}

    assert killed.returncode == -signal.SIGKILL
    assert len(finished) == 3
    assert not two.exists()

    subprocess.run(command(two, 2), check=True, timeout=120)
    assert {
        p.name: p.stat().st_mtime_ns for p in parts.glob("[0-9]*.h5") if p.name in finished
    } == finished
    assert len(list(parts.glob("[0-9]*.h5"))) == 8
    same(one, two)

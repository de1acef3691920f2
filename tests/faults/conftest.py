"""A stage under attack: `index` on the tiny run, in processes of its own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"


@pytest.fixture(scope="session")
def index(tiny_run) -> Callable[..., list[str]]:
    """`index(out, ranks=1, images=..., **keys)`: the command line of `index`. keys: of its
    section.
    """
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    default = {
        "cell": tiny_run["cell"],
        "space_group": tiny_run["space_group"],
        "d_min": 2.4,
        "domain_ang": 1500.0,
        "n_directions": 4096,
        "block_shots": 2,
    }

    def command(
        out: Path, ranks: int = 1, images: Path = tiny_run["manifest"], **keys: object
    ) -> list[str]:
        config = json.dumps({"index": default | keys, "recording": {}})
        words = [sys.executable, "-m", "spreadflow.cli", "index", "--config", config]
        words += ["--ranks", ranks, "--images", images, "--out", out]
        launcher = [LAUNCHER, "-n", ranks] if ranks > 1 else []
        return [*map(str, [*launcher, *words])]

    return command


@pytest.fixture(scope="session")
def ended() -> Callable[..., str]:
    """`ended(command, status, **how)` runs a command and returns what it wrote to stderr. how:
    arguments of `subprocess.run`.
    """

    def run(command: list[str], status: int, **how: object) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, **how)
        assert done.returncode == status, done.stderr
        return done.stderr

    return run

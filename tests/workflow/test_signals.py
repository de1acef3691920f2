"""Every stage of the tiny trial, killed or terminated on two ranks when one has finished a file:
both end, and the same command on three ranks gives the product of the undisturbed trial.
"""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from same_product import assert_same
from spreadflow.config import load
from spreadflow.io import store
from spreadflow.products import BY_KIND
from spreadflow.trial import BY_WORD, commands, files, wanted

REPOSITORY = Path(__file__).parents[2]
LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
SIGNALLED = REPOSITORY / "tests" / "faults" / "signalled.py"
CONFIG = load(REPOSITORY / "config" / "tiny.yaml")
RUN = next(iter(CONFIG.runs))

ROUNDED = {"stage2"}
"""Stages whose sums over ranks depend on their number by rounding."""

CLOSE = 1e-6
"""Difference that rounding makes, relative to the largest of a column."""

pytestmark = [
    pytest.mark.chain,
    pytest.mark.long,
    pytest.mark.skipif(not LAUNCHER.exists(), reason=f"no MPI launcher at {LAUNCHER}"),
]


class Granted(NamedTuple):
    """What a job is granted, without a launcher."""

    tasks: int
    mpi: str = ""

    def get(self, name: str, default: str) -> str:
        return default


def command(word: str, out: Path, ranks: int, *program: object) -> list[str]:
    """Return the command line of a stage of the trial. program: in place of the command line's."""
    run = RUN if BY_WORD[word].runs else None
    wildcards = {"run": run} if run else {}
    inputs = files.inputs(CONFIG, word, run)
    line = commands.command(CONFIG, word, wildcards, inputs, str(out), Granted(ranks))
    launcher = [LAUNCHER, "-n", ranks] if ranks > 1 else []
    program = program or ("-m", "spreadflow.cli")
    return [*map(str, [*launcher, sys.executable, *program]), *shlex.split(line)[1:]]


def product_of(word: str) -> str:
    """Return the path of the product of a stage of the trial."""
    return files.outputs(CONFIG, word, RUN)[0]


def assert_equal(word: str, out: Path, whole: Path) -> None:
    """Assert that what a stage has written is that of the undisturbed trial."""
    if word == "simulate":
        ours, theirs = (json.loads(path.read_text())["files"] for path in (out, whole))
        assert ours == theirs  # with their checksums
    elif out.suffix != ".h5":
        assert out.read_bytes() == whole.read_bytes()
    elif word in ROUNDED:
        products = [store.read(path, BY_KIND[word]).datasets() for path in (out, whole)]
        for name, column in products[0].items():
            if not name.endswith(("seconds", "n_iterations")):
                close = CLOSE * np.nanmax(np.abs(column), initial=1.0, where=np.isfinite(column))
                np.testing.assert_allclose(products[1][name], column, rtol=0, atol=close)
    else:
        assert_same(out, whole, BY_KIND[word])


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("word", wanted(CONFIG))
def test_every_stage_goes_on_where_a_signal_ended_it(tiny_chain, tmp_path, word, name):
    out = tmp_path / Path(product_of(word)).name
    n_ranks = (2, 3) if BY_WORD[word].is_parallel else (1, 1)
    number = signal.Signals[name]
    how = {"cwd": tiny_chain, "capture_output": True, "text": True, "timeout": 900}
    ended = subprocess.run(command(word, out, n_ranks[0], SIGNALLED, int(number), 2), **how)
    assert ended.returncode != 0, "no second file"
    assert "Traceback" not in ended.stderr
    assert ("was interrupted by SIGTERM" in ended.stderr) == (name == "SIGTERM")

    again = subprocess.run(command(word, out, n_ranks[1]), **how)
    assert again.returncode == 0, again.stderr
    assert_equal(word, out, tiny_chain / product_of(word))
    assert not list(tmp_path.rglob("*.tmp"))

"""ladder under a launcher: the same table on one rank and on three, of which one has no block,
whatever the threads that the environment would grant them.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spreadflow.config import parse, section
from spreadflow.io import store
from spreadflow.products import Ladder
from spreadflow.trial.threads import THREAD_CAPS

LAUNCHER = Path(sys.prefix) / "bin" / "mpiexec"
pytestmark = pytest.mark.long


def run(packed_run, out: Path, ranks: int, threads: int) -> Ladder:
    config = section(
        parse(packed_run.tree | {"ladder": {"n_domains": 9, "n_lattices": 3}}), "ladder"
    )
    words = [
        LAUNCHER,
        "-n",
        ranks,
        sys.executable,
        "-m",
        "spreadflow.cli",
        "ladder",
        "--config",
        config,
    ]
    words += [
        "--ranks",
        ranks,
        "--annulus",
        packed_run.annulus,
        "--cells",
        packed_run.cells,
        "--out",
        out,
    ]
    environment = os.environ | dict.fromkeys(THREAD_CAPS, str(threads))
    subprocess.run([*map(str, words)], timeout=240, check=True, env=environment)
    return store.read(out, Ladder)


def test_any_number_of_ranks_and_threads_gives_the_same(packed_run, tmp_path):
    if not LAUNCHER.exists():
        pytest.skip(f"no MPI launcher at {LAUNCHER}")
    one, three = (
        run(packed_run, tmp_path / str(ranks) / "ladder.h5", ranks, threads)
        for ranks, threads in ((1, 4), (3, 1))
    )
    assert len(one.rungs.rung) == 3 * 6
    for name, column in one.datasets().items():
        if name != Ladder.rungs.seconds.path:
            np.testing.assert_array_equal(three.datasets()[name], column, err_msg=name)

    attributes = [store.attributes(tmp_path / str(ranks) / "ladder.h5", Ladder) for ranks in (1, 3)]
    counts = [
        {name: each["reading"][name] for name in ("n_read", "n_others", "n_accepted")}
        for each in attributes
    ]

    assert counts[0] == counts[1] == {"n_read": 4, "n_others": 0, "n_accepted": 4}
    assert attributes[0]["key"] == attributes[1]["key"]
    assert attributes[1]["n_modelled"] == 3

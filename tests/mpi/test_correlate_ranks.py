"""correlate on ranks: the same numbers for any number of readers and workers, and one error."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from spreadflow.errors import RanksError
from spreadflow.io.g2 import differences
from spreadflow.parallel import roles

MPIEXEC = shutil.which("mpiexec", path=Path(sys.prefix, "bin")) or shutil.which("mpiexec")

CONFIG = {
    "simulated": {
        "n_shots": 300,
        "shape": [7, 9],
        "missing": 0.1,
        "duplicate": 0.05,
        "disordered": 0.1,
        "late": 0.02,
        "late_shots": 150,
        "n_saturated": 2,
    },
    "delays": [1, 2, 5, 12, 40],
    "buffer_shots": 70,
    "block_shots": 32,
    "update_shots": 96,
}


def test_readers_are_taken_from_one_host_after_the_other():
    hosts = ["a", "a", "a", "b", "b", "b"]
    assert roles.assign(hosts, 2) == roles.Assignment(0, 2, (1, 3), (4, 5))
    assert roles.assign(hosts, 2, ["b"]) == roles.Assignment(0, 1, (3, 4), (2, 5))
    assert roles.assign(["a"] * 4, 1) == roles.Assignment(0, 2, (1,), (3,))


@pytest.mark.parametrize(("n_ranks", "n_readers"), [(3, 1), (5, 3), (6, 0)])
def test_too_few_ranks_are_refused(n_ranks, n_readers):
    with pytest.raises(RanksError):
        roles.assign(["a"] * n_ranks, n_readers)


def test_workers_own_pixels_whose_numbers_differ_by_one_at_most():
    for n_pixels, n_workers in ((63, 5), (5, 5), (64, 3)):
        widths = roles.widths_of(n_pixels, n_workers)
        assert sum(widths) == n_pixels
        assert max(widths) - min(widths) <= 1


def launch(folder: Path, ranks: int, out: str, *words: str, **keys) -> subprocess.CompletedProcess:
    """Correlate on ranks."""
    assert MPIEXEC, "no mpiexec: install the extra `mpi`"
    config = folder / f"{out}.yaml"
    config.write_text(json.dumps({"correlate": CONFIG | keys | {"out": str(folder / out)}}))
    program = [sys.executable, "-m", "spreadflow.cli", "correlate", "-c", str(config), *words]
    launcher = [MPIEXEC, "-n", str(ranks)] if ranks > 1 else []
    return subprocess.run([*launcher, *program], capture_output=True, text=True, timeout=240)


FEW = ((0, 0), (1, 2))
"""Readers and workers; without any, one process does all."""

MANY = ((0, 0), (1, 1), (1, 2), (3, 1), (3, 5))
"""The same for who has the time."""


@pytest.mark.chain
@pytest.mark.parametrize(
    ("calculator", "numbers"),
    [
        pytest.param("windowed", FEW),
        pytest.param("windowed", MANY, marks=pytest.mark.long),
        pytest.param("multi_tau", MANY, marks=pytest.mark.long),
    ],
)
def test_any_number_of_readers_and_workers_gives_the_same_numbers(tmp_path, calculator, numbers):
    keys = {"calculator": calculator, "n_levels": 4}
    for n_readers, n_workers in numbers:
        ranks = n_readers + n_workers + 2 if n_readers else 1
        words = ("-s", str(n_readers)) if n_readers else ()
        out = f"g{n_readers}{n_workers}.h5"
        done = launch(tmp_path, ranks, out, *words, **keys)
        assert done.returncode == 0, done.stderr
        worst, lines = differences(tmp_path / "g00.h5", tmp_path / out, 0.0)
        assert lines == []
        assert worst == 0.0
    with h5py.File(tmp_path / "g00.h5") as file:
        assert len(file["user"]) == 3


@pytest.mark.chain
@pytest.mark.long
def test_the_earliest_block_may_come_first(tmp_path):
    done = launch(tmp_path, 6, "e.h5", "-s", "2", "--earlyServer", calculator="accumulating")
    assert done.returncode == 0, done.stderr
    one = launch(tmp_path, 1, "one.h5", calculator="accumulating")
    assert one.returncode == 0, one.stderr
    with h5py.File(tmp_path / "e.h5") as file, h5py.File(tmp_path / "one.h5") as other:
        last, expected = (
            max(f["user"].items(), key=lambda item: item[1]["delay_counts"][0])[1]
            for f in (file, other)
        )
        n, n_expected = (np.array(update["delay_counts"]) for update in (last, expected))
        assert (np.abs(n - n_expected) <= 0.1 * n_expected).all()


DYING = '''
import os, signal, time

import h5py

def n_published():
    try:
        with h5py.File({path!r}, "r", locking=False) as file:
            return len(file["user"])
    except (OSError, RuntimeError, KeyError):  # it is being written
        return 0

class Dying:
    """A user's class whose last worker ends in the middle, when both updates until then, after 96
    and 192 shots, are published: the viewer does so in its own time.
    """

    def __init__(self, user_params, system_params, mpiParams, testAlternate):
        self.n = 0
        self.is_last = False

    def workerInit(self, numElementsWorker):
        from mpi4py import MPI
        self.is_last = MPI.COMM_WORLD.rank == MPI.COMM_WORLD.size - 1

    def workerAdjustData(self, data):
        self.n += 1
        if self.is_last and self.n == 250:
            while n_published() < 2:
                time.sleep(0.01)
            {what}
'''


@pytest.mark.chain
@pytest.mark.parametrize(
    "what",
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", marks=pytest.mark.long),
        "raise ValueError('no')",
    ],
)
def test_where_a_worker_dies_all_end_and_what_was_published_stays(tmp_path, what):
    module = tmp_path / "dying.py"
    text = DYING.replace("{path!r}", repr(str(tmp_path / "d.h5.inprogress")))
    module.write_text(text.replace("{what}", what))
    done = launch(tmp_path, 5, "d.h5", user_class=f"{module}:Dying")
    assert done.returncode != 0
    assert not (tmp_path / "d.h5").exists()
    if what.startswith("raise"):
        assert done.stderr.count("rank 4 of 5 failed") == 1
        assert "ValueError: no" in done.stderr
    with h5py.File(tmp_path / "d.h5.inprogress") as file:
        updates = list(file["user"].values())
        assert len(updates) == 2
        assert all(update["delay_counts"][0] > 0 for update in updates)

"""The same answer on any number of ranks, and no rank left behind: run under a real launcher."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spreadflow.config import Config, section
from spreadflow.parallel import World

pytestmark = pytest.mark.chain

PROGRAM = Path(__file__).with_name("program.py")
MPIEXEC = shutil.which("mpiexec", path=Path(sys.prefix, "bin")) or shutil.which("mpiexec")
N_BLOCKS = 23


def _launch(ranks: int, *command: object) -> subprocess.CompletedProcess:
    assert MPIEXEC, "no mpiexec: install the extra `mpi`"
    words = [MPIEXEC, "-n", str(ranks), *map(str, command)]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=120,
    )


def _result(ranks: int, what: str):
    completed = _launch(ranks, sys.executable, PROGRAM, what, ranks)
    assert completed.returncode == 0, completed.stderr
    (line,) = completed.stdout.splitlines()
    return json.loads(line)


@pytest.fixture(scope="module")
def shared() -> dict[int, dict]:
    return {ranks: _result(ranks, "share") for ranks in (1, 2, 4)}


def test_sums_are_equal_bit_for_bit_on_any_number_of_ranks():
    expected = np.zeros((3, 4))
    for i in range(N_BLOCKS):
        expected += np.random.default_rng(i).normal(size=(3, 4)) * 10.0 ** (i % 9)
    for ranks in (1, 2, 3, 4):
        assert _result(ranks, "total") == [expected.tobytes().hex()]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_block_is_done_exactly_once(shared, ranks):
    all_blocks, none, one = shared[ranks]["done"]
    assert sorted(all_blocks) == list(range(N_BLOCKS))
    assert none == []
    assert one == [0]
    assert shared[ranks]["blocks"] == [i * i for i in range(N_BLOCKS)]


@pytest.mark.parametrize("network", ["0", "1"], ids=["shared memory", "network"])
def test_a_busy_first_rank_holds_nobody_up(monkeypatch, network):
    monkeypatch.setenv(
        "MPIR_CVAR_NOLOCAL", network
    )  # MPICH: as if every rank were on a node of its own
    first, second = _result(2, "slow")
    assert first + second == N_BLOCKS
    assert first <= 3


def test_ranks_of_a_node_take_its_devices_in_turn(monkeypatch):
    """Two CPUs stand in for GPUs."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    completed = _launch(3, sys.executable, PROGRAM, "places", 3)
    assert json.loads(completed.stdout) == [[0, 0], [1, 1], [2, 0]], completed.stderr
    expected = "INFO ranks by device: cpu 0 of 2: 2, cpu 1 of 2: 1 (cpu; nodes: 1)"
    assert completed.stderr.count(expected) == 1
    assert completed.stderr.count("ranks by device") == 1

    monkeypatch.setenv("MPIR_CVAR_NOLOCAL", "1")  # MPICH: as if every rank were on its own node
    completed = _launch(3, sys.executable, PROGRAM, "places", 3)
    assert json.loads(completed.stdout) == [[0, 0], [0, 0], [0, 0]], completed.stderr
    assert "cpu 0 of 2: 3 (cpu; nodes: 3)" in completed.stderr


def test_of_the_cpu_alone_nothing_is_said():
    completed = _launch(2, sys.executable, PROGRAM, "places", 2)
    assert json.loads(completed.stdout) == [[0, 0], [1, 0]], completed.stderr
    assert "ranks by device" not in completed.stderr


def test_a_rank_that_waits_is_not_busy():
    first, second = _result(2, "busy")
    assert second > 0.4
    assert first < 0.2 * second


def test_a_working_first_rank_hands_out_blocks_at_once():
    """Ranks of one node draw from its memory: nobody has to look up from work."""
    first, second = _result(2, "working")
    assert first + second == 20 * N_BLOCKS
    assert first < N_BLOCKS


def test_where_ranks_are_many_the_first_one_hands_out_alone():
    served = _result(4, "served")
    all_blocks, none, one = served["done"]
    assert sorted(all_blocks) == list(range(N_BLOCKS))
    assert (none, one) == ([], [0])
    assert served["of_first"] == 0


def test_a_world_of_one_needs_no_launcher():
    world = World()
    assert (world.rank, world.size, list(world.share(4))) == (0, 1, [0, 1, 2, 3])
    np.testing.assert_array_equal(world.sum({1: np.ones(2), 0: np.full(2, 2.0)}), [3.0, 3.0])


def test_sum_of_no_blocks_at_all():
    assert World().sum({}).shape == ()


def _stage(ranks: int, out: Path) -> list[object]:
    """Return the arguments of a stage whose input does not exist."""
    config = section(Config(), "cells")
    return [
        "-m",
        "spreadflow.cli",
        "cells",
        "--config",
        config,
        "--ranks",
        ranks,
        "--reindex",
        out,
        "--out",
        out,
    ]


FOREIGN = ("env", "-u", "PMI_RANK", "-u", "PMI_SIZE", "-u", "PMI_FD")


@pytest.mark.parametrize(
    ("before", "found"), [((), 2), (FOREIGN, 1)], ids=["too few", "foreign launcher"]
)
def test_another_communicator_than_announced_is_refused(tmp_path, before, found):
    """Too few ranks, and the silent failure of a foreign launcher: each process believes it is
    alone.
    """
    completed = _launch(2, *before, sys.executable, *_stage(3, tmp_path / "x.h5"))
    assert completed.returncode == 5
    assert f"expected 3 MPI ranks (--ranks); found a communicator of {found}." in completed.stderr


def test_one_rank_under_a_launcher_of_several_is_refused(tmp_path):
    completed = _launch(2, sys.executable, *_stage(1, tmp_path / "x.h5"))
    assert completed.returncode == 5
    for rank in range(2):
        assert f"found rank {rank} of 2 (PMI_RANK, PMI_SIZE). A stage takes --ranks 2" in (
            completed.stderr
        )
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize("ranks", [2, 0])
def test_ranks_without_a_launcher_are_refused(tmp_path, ranks):
    completed = _without_launcher(ranks, tmp_path)
    assert completed.returncode == 5
    assert f"expected {ranks} MPI ranks (--ranks); found a communicator of 1" in completed.stderr
    assert "Traceback" not in completed.stderr


def _without_launcher(ranks: int, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run the stage of `_stage` with more in its environment, and no launcher."""
    command = [sys.executable, *map(str, _stage(ranks, folder / "x.h5"))]
    variables = os.environ | environment
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)


@pytest.fixture
def without_mpi4py(tmp_path) -> str:
    """A path of packages with an mpi4py that can't be imported."""
    package = tmp_path / "packages" / "mpi4py"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no mpi4py here')")
    return f"{package.parent}:{os.environ.get('PYTHONPATH', '')}"


def test_one_rank_needs_no_mpi(tmp_path, without_mpi4py):
    """It gets as far as its input, which is not there."""
    missing = {"PYTHONPATH": without_mpi4py}
    broken = {"MPI4PY_LIBMPI": str(tmp_path / "no-such-library")}
    left_behind = {"PMI_SIZE": "4", "SLURM_PROCID": "0"}
    for environment in (missing, broken, missing | left_behind):
        completed = _without_launcher(1, tmp_path, **environment)
        assert completed.returncode == 4, completed.stderr
        assert "x.h5" in completed.stderr


def test_several_ranks_without_mpi_are_refused_by_name(tmp_path, without_mpi4py):
    missing = {"PYTHONPATH": without_mpi4py}
    broken = {"MPI4PY_LIBMPI": str(tmp_path / "no-such-library")}
    for environment, words in ((missing, "no mpi4py here"), (broken, "no-such-library")):
        completed = _without_launcher(2, tmp_path, **environment)
        assert completed.returncode == 5, completed.stderr
        assert "expected mpi4py with an MPI library" in completed.stderr
        assert words in completed.stderr
        assert "`spreadflow doctor`" in completed.stderr
        assert "Traceback" not in completed.stderr


FAILING_STAGE = """
import sys, types
from spreadflow import cli

def run(config, *, reindex, out, world, word):
    if world.rank == 1:
        {failure}
    world.barrier()  # the others wait here for ever, unless they are ended

sys.modules["spreadflow.stages.cells"] = types.SimpleNamespace(run=run)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        ("1 / 0", 1, ["rank 1 of 3 failed", "ZeroDivisionError", "Traceback"]),
        (
            "from spreadflow.errors import FileError; raise FileError('f.h5', 'a file', 'none', "
            "'Make it.')",
            4,
            ["f.h5: expected a file; found none. Make it."],
        ),
        ("sys.exit(3)", 1, ["rank 1 of 3 failed", "SystemExit: 3"]),
    ],
    ids=["bug", "wrong input", "exit"],
)
def test_an_error_on_one_rank_ends_all(tmp_path, failure, code, words):
    stage = tmp_path / "stage.py"
    stage.write_text(FAILING_STAGE.format(failure=failure))
    completed = _launch(3, sys.executable, stage, *_stage(3, tmp_path / "x.h5")[2:])
    assert completed.returncode == code
    assert all(word in completed.stderr for word in words), completed.stderr


WAITING_STAGE = """
import os, pathlib, sys, time, types
from spreadflow import cli

def run(config, *, reindex, out, world, word):
    pathlib.Path(f"{out}.{world.rank}").write_text(str(os.getpid()))
    if world.rank == 0:
        world.barrier()  # within MPI, where no Python runs
    time.sleep(60)

sys.modules["spreadflow.stages.cells"] = types.SimpleNamespace(run=run)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("rank", [0, 1], ids=["waiting", "working"])
def test_a_signal_to_one_rank_ends_all(tmp_path, name, rank):
    stage = tmp_path / "stage.py"
    stage.write_text(WAITING_STAGE)
    out = tmp_path / "x.h5"
    command = [MPIEXEC, "-n", "2", sys.executable, stage, *_stage(2, out)[2:]]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True) as launcher:
        pids = [_pid(Path(f"{out}.{number}")) for number in range(2)]
        number = signal.Signals[name]
        os.kill(pids[rank], number)
        _, stderr = launcher.communicate(timeout=30)
    assert launcher.returncode == 128 + number
    assert stderr.count(f"spreadflow cells: rank {rank} of 2 was interrupted by {name}") == 1, (
        stderr
    )
    assert "Traceback" not in stderr


def _pid(path: Path) -> int:
    """Return the number of the process that writes it to a file, once it did."""
    ends = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < ends, f"no {path}"
        time.sleep(0.05)
    return int(path.read_text())


def test_what_is_wrong_for_all_ranks_is_told_once(tmp_path):
    completed = _launch(2, sys.executable, *_stage(2, tmp_path / "x.h5"))
    assert completed.returncode == 4
    assert completed.stderr.count("expected") == 1

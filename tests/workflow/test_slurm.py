"""The workflow on a real Slurm: two nodes on one host, the profile as it is but for the sizes."""

import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import same
from trials import AS_USERS

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent

_spec = importlib.util.spec_from_file_location("slurm", HERE / "slurm.py")
slurm = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slurm)

ENVIRONMENT = {"MPIR_CVAR_CH4_NETMOD": "ofi"}
"""UCX's long addresses are too much for this old pmi2."""

HERE_ONLY = {
    "latency-wait": 5,
    "slurm-no-account": True,
    "slurm-status-command": "squeue",  # there is no accounting here
}

PRODUCT = "results/tiny/tiny/index.h5"
"""Of the first two stages of the tiny trial, each on both nodes."""

FEW_SHOTS = {"n_single": 2, "n_blank": 1, "n_double": 0, "n_saturated": 0, "n_unreadable": 0}

STOPPING = f"""\
#!/bin/bash
# Stops each rank in place of finishing its second file, until {{go}} is there.
[ -e '{{go}}' ] && exec "$@"
shift
exec '{sys.executable}' '{REPOSITORY}/tests/faults/signalled.py' {int(signal.SIGSTOP)} 2 "$@"
"""

WAITING = f"""\
#!/bin/bash
# Stands in for a stage, which ends when {{go}} is there.
while [ ! -e '{{go}}' ]; do sleep 0.1; done
exec '{HERE}/stub' "$@"
"""

ENDS = {
    "CANCELLED": lambda cluster, job: cluster.cancel(job),
    "TIMEOUT": lambda cluster, job: cluster.limit(job, minutes=1),
    "NODE_FAIL": lambda cluster, job: cluster.lose("n2"),
}
"""State in which Slurm ends a job → how it comes to that."""


def write_profile(folder: Path, container: object = "") -> Path:
    """Write profiles/slurm with two ranks a stage, one on each node. Returns its folder."""
    settings = (
        yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.yaml").read_text()) | HERE_ONLY
    )
    settings["default-resources"] |= {"slurm_partition": "debug", "runtime": 10, "mem_mb": 1000}
    if container:
        settings["default-resources"]["container"] = str(container)
    for resources in settings["set-resources"].values():
        assert resources["mpi"] == "srun --mpi=pmi2 --kill-on-bad-exit"
        resources |= {"tasks": 2, "nodes": 2}
    profile = folder / "profile"
    profile.mkdir()
    (profile / "config.yaml").write_text(yaml.safe_dump(settings))
    return profile


def write_program(path: Path, text: str) -> Path:
    """Write a program. Returns its path."""
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def cluster(tmp_path) -> Iterator[Any]:
    """Two idle nodes, as long as the test takes; it is skipped where there can be none."""
    try:
        nodes = slurm.Slurm(tmp_path / "slurm").__enter__()
    except slurm.NoSlurm as reason:
        pytest.skip(f"no Slurm here: {reason}")
    yield nodes
    nodes.__exit__()


@pytest.fixture(scope="module")
def few_shots(tmp_path_factory) -> Path:
    """The configuration of the tiny trial with few shots, each in a file of its own."""
    tree = yaml.safe_load((REPOSITORY / "config" / "tiny.yaml").read_text())
    tree["runs"]["tiny"]["simulate"] = FEW_SHOTS
    for stage in ("simulate", "index"):
        tree[stage] = tree.get(stage, {}) | {"block_shots": 1}
    path = tmp_path_factory.mktemp("few") / "few.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def local(tmp_path_factory, few_shots, chain) -> Path:
    """The first two stages of few shots on one local rank: their folder."""
    folder = tmp_path_factory.mktemp("local")
    chain(folder, str(few_shots.with_suffix("")), PRODUCT)
    return folder


def workflow(profile: Path, config: Path, *words: object) -> list[str]:
    """Return the command line of Snakemake. words: targets, and more options."""
    command = [sys.executable, HERE / "prompt_snakemake.py"]
    command += ["--snakefile", REPOSITORY / "Snakefile"]
    command += ["--workflow-profile", profile, *words, "--configfile", config]
    return [*map(str, command)]


@pytest.fixture
def start() -> Iterator[Callable[[Path, list[str]], subprocess.Popen]]:
    """`start(folder, command)` starts a command, all words of which go to one pipe."""
    processes = []

    def started(folder: Path, command: list[str]) -> subprocess.Popen:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=AS_USERS | ENVIRONMENT,
        )
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.wait()


def until(is_so: Callable[[], object], process: subprocess.Popen, seconds: float = 180) -> None:
    """Wait for something while a process runs."""
    patience = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < patience
        time.sleep(0.2)


def times(folder: Path) -> dict[Path, int]:
    """Return the images of the run → when they were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("data/tiny/images/*.nxs")}


@pytest.mark.chain
@pytest.mark.parametrize(
    "state",
    [
        "CANCELLED",
        pytest.param("TIMEOUT", marks=pytest.mark.long),
        pytest.param("NODE_FAIL", marks=pytest.mark.long),
    ],
)
def test_a_job_that_slurm_ends_is_named_and_goes_on(
    cluster, start, few_shots, tmp_path, request, state
):
    """The same command finishes it, on two nodes, with the numbers of one local rank."""
    go = tmp_path / "go"
    stopping = write_program(tmp_path / "stopping", STOPPING.format(go=go))
    command = workflow(write_profile(tmp_path, stopping), few_shots, PRODUCT)
    work = tmp_path / "work"
    work.mkdir()
    process = start(work, command)
    until(lambda: times(work), process)
    ((job, nodes),) = cluster.running().items()
    assert nodes == "n[1-2]"

    ENDS[state](cluster, job)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Error in rule simulate" in output
    assert re.search(rf"SLURM-job '{job}' failed.* SLURM status is: '{state}'", output), output
    finished = times(work)
    assert finished
    assert not (work / "data" / "tiny" / "manifest.json").exists()

    if state == "NODE_FAIL":
        cluster.restore("n2")
    go.touch()
    completed = _run(work, 400, *command)
    assert completed.returncode == 0, completed.stderr[-5000:]
    assert finished.items() <= times(work).items()

    local = request.getfixturevalue("local")  # only where there is a Slurm
    differences, n_compared = same.compare(local, work, same.Renamed({}))
    assert differences == []
    assert n_compared > 100


@pytest.mark.chain
@pytest.mark.long
def test_jobs_outlive_a_workflow_that_is_killed_and_it_goes_on(cluster, start, new_trial, tmp_path):
    """What they finish in the meantime does not run again."""
    trial = new_trial({"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}})
    manifest = trial.folder / "data" / "r" / "manifest.json"
    go = tmp_path / "go"
    waiting = write_program(tmp_path / "waiting", WAITING.format(go=go))
    config = trial.folder / "config" / "config.yaml"
    command = workflow(write_profile(tmp_path, waiting), config, "results/t/r/index.h5")
    process = start(trial.folder, command)
    until(cluster.running, process)
    process.kill()
    process.communicate()
    go.touch()
    patience = time.monotonic() + 60
    while cluster.running() and time.monotonic() < patience:
        time.sleep(0.2)
    assert manifest.read_text() == "simulate 2\n"
    written_at = manifest.stat().st_mtime_ns

    trial.snakemake("--unlock")
    completed = _run(trial.folder, 300, *command)
    assert completed.returncode == 0, completed.stderr[-5000:]
    assert (trial.folder / "results/t/r/index.h5").read_text() == "index 2\n"
    assert manifest.stat().st_mtime_ns == written_at


@pytest.mark.chain
@pytest.mark.long
@pytest.mark.usefixtures("cluster")
def test_the_tiny_chain_on_two_nodes(tmp_path, request):
    """Every product and summary is the same as without Slurm, bit for bit."""
    work = tmp_path / "work"
    work.mkdir()
    command = workflow(write_profile(tmp_path), REPOSITORY / "config" / "tiny.yaml")
    completed = _run(work, 1800, *command)
    assert completed.returncode == 0, completed.stderr[-5000:]

    tiny_chain = request.getfixturevalue("tiny_chain")  # only where there is a Slurm
    differences, n_compared = same.compare(tiny_chain, work, same.Renamed({}))
    assert differences == []
    assert n_compared > 1000


def _run(folder: Path, seconds: int, *command: object) -> subprocess.CompletedProcess:
    """Run a command under a hard limit."""
    return subprocess.run(
        ["timeout", "-s", "KILL", str(seconds), *map(str, command)],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=AS_USERS | ENVIRONMENT,
    )


REFUSED = {
    ("--mpi=pmi2", 1): "found rank 1 of 2 (PMI_RANK, PMI_SIZE)",
    ("--mpi=none", 1): "found rank 1 of 2 (SLURM_PROCID, SLURM_STEP_NUM_TASKS)",
    ("--mpi=none", 2): "found a communicator of 1",
}
"""How `srun` starts two processes, and their --ranks → what is found."""


@pytest.mark.chain
@pytest.mark.usefixtures("cluster")
def test_ranks_that_srun_does_not_start_are_refused(tmp_path):
    """And in an allocation nothing is to be mended, where a program of one rank starts as ever."""
    program = [sys.executable, "-m", "spreadflow.cli"]
    config = tmp_path / "config.yaml"
    config.write_text("trial: t\n")
    stage = [*program, "cells", "--config", config, "--reindex", "x.h5", "--out", "y.h5"]
    for (kind, ranks), found in REFUSED.items():
        completed = _run(tmp_path, 60, "srun", "-n", 2, kind, *stage, "--ranks", ranks)
        assert completed.returncode == 5, completed.stderr
        assert found in completed.stderr

    completed = _run(tmp_path, 60, "salloc", "-n", 2, *stage, "--ranks", 1)
    assert completed.returncode == 4, completed.stderr  # it gets as far as its input

    _run(tmp_path, 180, "salloc", "-n", 2, *program, "doctor", "--json", "doctor.json")
    rows = {row["check"]: row for row in json.loads((tmp_path / "doctor.json").read_text())}
    assert "pmi2" in rows["Slurm"]["found"]
    assert rows["two ranks"]["is_good"] and rows["Slurm"]["is_good"]

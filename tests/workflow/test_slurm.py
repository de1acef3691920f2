"""The workflow on a real Slurm: two nodes on one host, the profile as it is but for the sizes."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from spreadflow.io import store
from spreadflow.products import Index

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent

_spec = importlib.util.spec_from_file_location("slurm", HERE / "slurm.py")
slurm = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(slurm)

HERE_ONLY = {
    "latency-wait": 5,
    "slurm-init-seconds-before-status-checks": 4,
    "slurm-no-account": True,
    "slurm-status-command": "squeue",  # there is no accounting here
}


@pytest.fixture
def profile(tmp_path) -> Path:
    """profiles/slurm with two ranks a stage, one on each node."""
    settings = (
        yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.yaml").read_text()) | HERE_ONLY
    )
    settings["default-resources"] |= {"slurm_partition": "debug", "runtime": 10, "mem_mb": 1000}
    for resources in settings["set-resources"].values():
        assert resources["mpi"] == "srun --mpi=pmi2 --kill-on-bad-exit"
        resources |= {"tasks": 2, "nodes": 2}
    folder = tmp_path / "profile"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def cluster(tmp_path) -> Iterator[None]:
    """Two idle nodes, as long as the test takes; it is skipped where there can be none."""
    try:
        nodes = slurm.Slurm(tmp_path / "slurm").__enter__()
    except slurm.NoSlurm as reason:
        pytest.skip(f"no Slurm here: {reason}")
    yield
    nodes.__exit__()


@pytest.mark.chain
@pytest.mark.usefixtures("cluster")
def test_the_tiny_chain_on_two_nodes(tmp_path, profile, request):
    """The same numbers as without Slurm, bit for bit."""
    work = tmp_path / "work"
    work.mkdir()
    command = [
        "snakemake",
        "--snakefile",
        REPOSITORY / "Snakefile",
        "--configfile",
        REPOSITORY / "config" / "tiny.yaml",
    ]
    command += [
        "--workflow-profile",
        profile,
        "results/tiny/level0.expt",
    ]  # one stage that shares nothing, one that sums
    completed = _run(work, 600, Path(sys.prefix, "bin", command[0]), *command[1:])
    assert completed.returncode == 0, completed.stderr[-5000:]
    assert (work / "results" / "tiny" / "level0.expt").exists()

    tiny_chain = request.getfixturevalue("tiny_chain")  # only where there is a Slurm
    name = "results/tiny/tiny/index.h5"
    ours, theirs = (store.read(folder / name, Index).datasets() for folder in (tiny_chain, work))
    for dataset in ours.keys() - {"shots/seconds"}:
        np.testing.assert_array_equal(ours[dataset], theirs[dataset], err_msg=dataset)

    fit = Path("results/tiny/level0.expt")
    assert (work / fit).read_text() == (tiny_chain / fit).read_text()


def _run(folder: Path, seconds: int, *command: object) -> subprocess.CompletedProcess:
    """Run a command under a hard limit."""
    return subprocess.run(
        ["timeout", "-s", "KILL", str(seconds), *map(str, command)],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ
        | {"MPIR_CVAR_CH4_NETMOD": "ofi"},  # UCX's long addresses: too much for this old pmi2
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

"""The workflow on a real Slurm: two nodes on one host, the profile as it is but for the sizes."""

import importlib.util
import os
import subprocess
import sys
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


@pytest.mark.chain
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
    try:
        cluster = slurm.Slurm(tmp_path / "slurm").__enter__()
    except slurm.NoSlurm as reason:
        pytest.skip(f"no Slurm here: {reason}")
    try:
        completed = subprocess.run(
            ["timeout", "-s", "KILL", "600", Path(sys.prefix, "bin", command[0]), *command[1:]],
            cwd=work,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=os.environ
            | {"MPIR_CVAR_CH4_NETMOD": "ofi"},  # UCX's long addresses: too much for this old pmi2
        )
    finally:
        cluster.__exit__()

    assert completed.returncode == 0, completed.stderr[-5000:]
    assert (work / "results" / "tiny" / "level0.expt").exists()

    tiny_chain = request.getfixturevalue("tiny_chain")  # only where there is a Slurm
    name = "results/tiny/tiny/index.h5"
    ours, theirs = (store.read(folder / name, Index).datasets() for folder in (tiny_chain, work))
    for dataset in ours.keys() - {"shots/seconds"}:
        np.testing.assert_array_equal(ours[dataset], theirs[dataset], err_msg=dataset)

    fit = Path("results/tiny/level0.expt")
    assert (work / fit).read_text() == (tiny_chain / fit).read_text()

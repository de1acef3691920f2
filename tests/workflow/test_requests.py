"""What the executors of Slurm, LSF and Grid Engine ask their schedulers for, by our profiles: the
programs that submit are stand-ins that keep how they were called, and refuse.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.chain

REFUSES = '#!/bin/bash\necho "$*" > {called}.part\nmv {called}.part {called}\nexit 1\n'
"""What stands in for a program that submits."""

ANSWERS = "#!/bin/bash\ncat <<'END'\n{answer}\nEND\n"
"""What stands in for the others."""


class Request(NamedTuple):
    """What is asked for `simulate` by a profile."""

    program: str
    """submits"""
    has: tuple[str, ...]
    """words that are there"""
    lacks: tuple[str, ...] = ()
    """words that are not"""
    answers: dict[str, str] = {}  # noqa: RUF012
    """other programs of the scheduler, and what they print"""


SLURM = {"sacctmgr": "ACCOUNT\nlcls:EXPERIMENT", "sinfo": "PARTITION\nother"}
"""A Slurm without a default partition."""

REQUESTS = {
    "nersc-gpu": Request(
        program="sbatch",
        has=(
            "-A ACCOUNT",
            "-C gpu",
            "--qos=regular",
            "-t 240",
            "--nodes=4",
            "--ntasks=16",
            "--cpus-per-task=32",
            "--gpus-per-node=4",
        ),
        lacks=("--mem", "-p "),
        answers=SLURM,
    ),
    "olcf": Request(
        program="sbatch",
        has=("-p batch", "-t 120", "--nodes=4", "--ntasks=224", "--cpus-per-task=1"),
        lacks=("--mem",),
        answers=SLURM,
    ),
    "lcls": Request(
        program="sbatch",
        has=("-p milano", "-t 240", "--ntasks=240", "--cpus-per-task=1", "--mem-per-cpu 2000"),
        lacks=("--nodes",),
        answers=SLURM,
    ),
    "lsf": Request(
        program="bsub",
        has=(
            "-P ACCOUNT",
            "-q QUEUE",
            "-W 240",
            "-n 64",
            "-R rusage[mem=2000]",
            "-R span[ptile=32]",
        ),
        answers={
            "badmin": "Configuration\nLSB_SHAREDIR = {folder}\nLSF_CONFDIR = {folder}",
            "lsclusters": "CLUSTER_NAME STATUS\nc1 ok",
        },
    ),
    "sge": Request(
        program="qsub",
        has=("-P ACCOUNT", "-pe mpi 64", "-l h_rt=04:00:00", "-l h_vmem=2000M", "-V"),
        answers={"qstat": "", "qacct": ""},
    ),
}
"""The requests, by profile."""


def stand_ins(folder: Path, request: Request, called: Path) -> Path:
    """A folder of the programs of a scheduler."""
    programs = folder / "programs"
    programs.mkdir()
    texts = {request.program: REFUSES.format(called=called)}
    for program, answer in request.answers.items():
        texts[program] = ANSWERS.format(answer=answer.format(folder=folder))
    for program, text in texts.items():
        (programs / program).write_text(text)
        (programs / program).chmod(0o755)
    parameters = folder / "lsbatch" / "c1" / "configdir" / "lsb.params"  # of LSF
    parameters.parent.mkdir(parents=True)
    parameters.touch()
    return programs


@pytest.mark.parametrize("name", REQUESTS)
def test_what_a_profile_asks_for(tmp_path, new_trial, name):
    request = REQUESTS[name]
    trial = new_trial({"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}})
    called = tmp_path / "called"
    programs = stand_ins(tmp_path, request, called)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "snakemake",
            "--no-hooks",
            "--workflow-profile",
            name,
            "data/r/manifest.json",
        ],
        cwd=trial.folder,
        env=os.environ
        | {
            "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    patience = time.monotonic() + 60
    while process.poll() is None and not called.exists() and time.monotonic() < patience:
        time.sleep(0.1)
    process.kill()  # executors wait for up to a minute before they look at their jobs
    process.wait()

    line = called.read_text()
    assert [words for words in request.has if words not in line] == [], line
    assert [words for words in request.lacks if words in line] == [], line

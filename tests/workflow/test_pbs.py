"""Profiles for PBS, with stand-ins for qsub, qstat, qdel and mpiexec (tests/workflow/pbs): there is
no PBS to test with. What the programs of a real one print was read in its documents.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spreadflow.cli import main
from spreadflow.cli.pbs_status import status

HERE = Path(__file__).parent
STAND_INS = HERE / "pbs"

DESCRIBED = """\
Job Id: 7.pbs-01
    Job_Name = index
    Job_Owner = someone@login
    job_state = {state}
    queue = small
    comment = Job run at Mon Nov 30 at 12:00 on (node:ncpus=64) and finished
"""
"""What `qstat -x -f` prints of a job."""

SIMULATED = {"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}}


@pytest.mark.parametrize(
    ("described", "complaint", "expected"),
    [
        (DESCRIBED.format(state="Q"), "", "running"),
        (DESCRIBED.format(state="R"), "", "running"),
        (DESCRIBED.format(state="H"), "", "running"),
        (DESCRIBED.format(state="E") + "    Exit_status = 0\n", "", "running"),
        (DESCRIBED.format(state="F") + "    Exit_status = 0\n", "", "success"),
        (DESCRIBED.format(state="F") + "    Exit_status = 1\n", "", "failed"),
        (DESCRIBED.format(state="F") + "    Exit_status = -29\n", "", "failed"),
        (DESCRIBED.format(state="F"), "", "failed"),  # deleted before it began
        ("", "qstat: Unknown Job Id 7.pbs-01", "failed"),
        ("", "qstat: cannot connect to server pbs-01 (errno=15010)", "running"),
    ],
)
def test_what_qstat_says_is_understood(described, complaint, expected):
    assert status(described, complaint) == expected


def test_without_qstat_there_is_one_message(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["pbs-status", "7.pbs-01"]) == 4
    assert "expected the program qstat of PBS" in capsys.readouterr().err


class Pbs:
    """A trial that is submitted to the stand-ins, by a profile that is like `alcf`."""

    def __init__(self, folder: Path, container: Path):
        self.jobs = folder / "jobs"
        self.jobs.mkdir()
        here = [str(STAND_INS), str(Path(sys.executable).parent)]
        self.environment = os.environ | {
            "PBS_STAND_IN": str(self.jobs),
            "PATH": os.pathsep.join([*here, os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        options = ["--like", "alcf", "--account", "Catalyst", "--container", str(container)]
        options += ["--launcher", f"{STAND_INS / 'mpiexec'} --ppn 32", "--folder", str(folder)]
        assert main(["site", "new", "pbs", *options]) == 0
        self.options = ["--workflow-profile", folder / "pbs", "data/r/manifest.json"]

    def snakemake(self, folder: Path, seconds: int = 1) -> subprocess.Popen:
        """Start Snakemake in the folder of a trial, for the images of its run alone.

        seconds: between two looks at the state of its jobs.
        """
        options = ["--seconds-between-status-checks", str(seconds), "--retries", "0"]
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *self.options, *options],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.mark.chain
def test_a_stage_is_submitted_and_succeeds(tmp_path, new_trial):
    trial = new_trial(SIMULATED)
    pbs = Pbs(tmp_path, HERE / "stub")
    output, _ = pbs.snakemake(trial.folder).communicate(timeout=120)

    assert "1 of 1 steps (100%) done" in output, output
    assert (trial.folder / "data/r/manifest.json").read_text() == "simulate 128\n"
    words = (pbs.jobs / "1.called").read_text().split()
    assert " ".join(words[:-1]) == (
        "-V -N simulate -A Catalyst -q preemptable -l select=4:system=polaris "
        "-l walltime=240:00 -l place=scatter -l filesystems=home:eagle -j oe -o .snakemake/"
    )


@pytest.mark.chain
def test_a_stage_that_fails_is_told(tmp_path, new_trial):
    trial = new_trial(SIMULATED)
    pbs = Pbs(tmp_path, Path("false"))
    process = pbs.snakemake(trial.folder)
    output, _ = process.communicate(timeout=120)

    assert process.returncode == 1
    assert "Error in rule simulate" in output
    assert (pbs.jobs / "1.status").read_text().strip() != "0"


@pytest.mark.chain
@pytest.mark.long
def test_an_interrupted_workflow_deletes_its_jobs_and_goes_on(tmp_path, new_trial):
    """Deletes them unless Snakemake is looking at their state just then (profiles/README.md)."""
    trial = new_trial(SIMULATED)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/bash\ntouch started\nexec sleep 50\n")
    slow.chmod(0o755)
    pbs = Pbs(tmp_path, slow)
    process = pbs.snakemake(trial.folder, seconds=30)
    patience = time.monotonic() + 60
    while not (trial.folder / "started").exists() and time.monotonic() < patience:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)

    assert (pbs.jobs / "1.deleted").exists(), output
    assert not (trial.folder / "data/r/manifest.json").exists()

    slow.write_text((HERE / "stub").read_text())
    output, _ = pbs.snakemake(trial.folder).communicate(timeout=120)
    assert (trial.folder / "data/r/manifest.json").exists(), output

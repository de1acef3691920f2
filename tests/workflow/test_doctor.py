"""What jobs ask for and is not there is told by the workflow before the first job, and by
`spreadflow doctor` without a launch.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spreadflow import cli
from spreadflow.doctor import examination
from spreadflow.doctor.host import Finding

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
STUB = HERE / "stub"
SMALL = {"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}}

ASKED = {
    "launcher": (
        ["--cores", "2", "--set-resources", "index:mpi='no-such-launcher'"],
        "launcher of index: expected what its jobs ask for; found no-such-launcher is not on PATH.",
    ),
    "runtime": (
        ["--cores", "1", "--default-resources", "container='no-such-runtime run x'"],
        "found no-such-runtime is not on PATH.",
    ),
    "image": (
        ["--cores", "1", "--default-resources", f"container='{STUB} no-such-image.sif'"],
        "found no image no-such-image.sif.",
    ),
}


@pytest.mark.chain
@pytest.mark.parametrize(("words", "sentence"), ASKED.values(), ids=ASKED)
def test_what_is_not_there_is_told_once_before_the_first_job(new_trial, words, sentence):
    trial = new_trial(SMALL)
    output = trial.snakemake(*words, status=1)
    assert output.count(sentence) == 1, output
    assert "Traceback" not in output
    assert not (trial.folder / "data").exists()


@pytest.mark.chain
def test_the_check_can_be_left_out(new_trial):
    trial = new_trial(SMALL)
    words = ["--cores", "1", "--no-hooks", "--default-resources", f"container={STUB}"]
    words += ["--set-resources", "index:mpi='no-such-launcher'", "--", "data/r/manifest.json"]
    trial.snakemake(*words)
    assert (trial.folder / "data/r/manifest.json").is_file()


@pytest.mark.chain
def test_jobs_begin_without_what_another_launcher_left(new_trial):
    """The stand-in for a stage writes the PMI_SIZE that it sees."""
    trial = new_trial(SMALL)
    command = [Path(sys.prefix, "bin", "snakemake"), "--cores", "1"]
    command += ["--default-resources", f"container={STUB}", "--", "data/r/manifest.json"]
    left_behind = {"PMI_RANK": "1", "PMI_SIZE": "4", "SLURM_STEP_ID": "0"}
    completed = subprocess.run(
        command,
        cwd=trial.folder,
        env=os.environ | left_behind,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert completed.returncode == 0, completed.stderr
    assert (trial.folder / "data/r/manifest.json").read_text() == "simulate 1\n"


@pytest.fixture
def two_checks(monkeypatch, tmp_path):
    """A machine of two checks, one of which is to be mended; the working folder is empty."""
    findings = [Finding("one", "well"), Finding("two", "ill", "mend it")]
    checks = tuple(lambda _host, finding=finding: finding for finding in findings)
    monkeypatch.setattr(examination, "CHECKS", checks)
    monkeypatch.chdir(tmp_path)
    return findings


def test_a_finding_is_a_line_and_how_to_mend_it_another(two_checks, tmp_path, capsys):
    with pytest.raises(SystemExit) as ending:
        cli.main(["doctor", "--json", "doctor.json"])
    assert ending.value.code == 1
    assert capsys.readouterr().out.splitlines() == [
        "good  one               well",
        "MEND  two               ill",
        "      -> mend it",
        "1 of 2 to mend",
    ]
    assert json.loads((tmp_path / "doctor.json").read_text()) == [
        {"check": "one", "found": "well", "remedy": "", "is_good": True},
        {"check": "two", "found": "ill", "remedy": "mend it", "is_good": False},
    ]


def test_a_machine_without_faults_ends_with_status_0(two_checks, monkeypatch):
    monkeypatch.setattr(examination, "CHECKS", examination.CHECKS[:1])
    assert cli.main(["doctor"]) == 0


def test_of_a_trial_its_jobs_are_looked_at_too(two_checks, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(examination, "CHECKS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    profile = tmp_path / "mine" / "config.yaml"
    profile.parent.mkdir()
    profile.write_text("executor: slurm\ndefault-resources: [container=apptainer exec x.sif]\n")
    trial = tmp_path / "trial.yaml"
    trial.write_text(json.dumps(SMALL))
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--trial", str(trial), "--profile", "mine"])
    lines = capsys.readouterr().out.splitlines()
    row = next(n for n, line in enumerate(lines) if line.endswith("no image x.sif"))
    assert lines[row].startswith("MEND  container of simulate, index")
    assert "containers/README.md" in lines[row + 1]
    assert lines[-1].startswith("1 of ")


def test_a_mistake_in_a_trial_is_told_as_ever(two_checks, tmp_path, capsys):
    trial = tmp_path / "trial.yaml"
    trial.write_text("trial: t\nindex: {d_min: -1}\n")
    assert cli.main(["doctor", "--trial", str(trial)]) == 3
    assert "index.d_min" in capsys.readouterr().err


@pytest.mark.chain
def test_this_machine_is_well(tmp_path):
    """Really run, every check, from a folder without anything; a GPU may lie idle."""
    command = [sys.executable, "-m", "spreadflow.cli", "doctor", "--json", "doctor.json"]
    completed = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    rows = json.loads((tmp_path / "doctor.json").read_text())
    assert len(rows) == len(examination.CHECKS)
    wrong = [row for row in rows if not row["is_good"]]
    assert completed.returncode == bool(wrong)
    assert [row for row in wrong if "make room" not in row["remedy"]] == [], completed.stdout

"""The merged settings of every profile, and that none overrides another."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spreadflow.trial import STAGES

pytestmark = pytest.mark.chain

REPOSITORY = Path(__file__).parents[2]
SETTINGS = """
import json, sys
from snakemake.cli import parse_args
_, args = parse_args(sys.argv[1:])
print(json.dumps({k: getattr(args, k) for k in ("executor", "jobs", "cores", "latency_wait")}))
"""
MANY_RANKS = {stage.word for stage in STAGES if stage.is_parallel}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """An environment whose user-level Snakemake folder holds the profiles."""
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("home"))}
    for _ in range(2):  # the second time replaces the links
        subprocess.run(
            [sys.executable, "-m", "spreadflow.cli", "profiles", "install"],
            cwd=REPOSITORY,
            check=True,
            env=environment,
            timeout=60,
        )
    return environment


def _settings(environment, *argv):
    completed = subprocess.run(
        [sys.executable, "-c", SETTINGS, *argv],
        cwd=REPOSITORY,
        env=environment,
        timeout=60,
        capture_output=True,
    )
    assert completed.returncode == 0, completed.stderr.decode()
    return json.loads(completed.stdout)


@pytest.mark.parametrize("flag", ["--workflow-profile", "--profile"])
def test_slurm_settings_are_not_overridden(installed, flag):
    settings = _settings(installed, flag, "slurm")
    assert settings["executor"] == "slurm"
    assert settings["jobs"] == 100  # a number of jobs also lifts the limit of `cores`
    assert settings["latency_wait"] == 30


def test_bare_snakemake_runs_on_all_cores(installed):
    settings = _settings(installed)
    assert settings["executor"] in (None, "local")
    assert settings["cores"] == os.cpu_count() or settings["cores"] == len(os.sched_getaffinity(0))


def test_the_default_profile_holds_only_what_is_harmless():
    import yaml

    keys = yaml.safe_load((REPOSITORY / "profiles" / "default" / "config.yaml").read_text()).keys()
    assert keys <= {"cores", "rerun-incomplete"}, "it wins over --profile slurm, key by key"


def test_commands_of_a_profile(new_trial):
    """Launcher outside, container inside, both from the profile; one-rank rules have no
    launcher.
    """
    trial = new_trial({"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}})
    output = trial.snakemake(
        "--dry-run",
        "--printshellcmds",
        "--workflow-profile",
        "slurm",
        "--default-resources",
        "container=shifter",
    )
    commands = [line for line in output.splitlines() if "spreadflow" in line and " --out " in line]

    assert len(commands) == 14 + 14 + 1

    for command in commands:
        word = command.split("spreadflow ")[1].split()[0]
        if word in MANY_RANKS:
            tasks = {"level0": 16, "merge": 16, "pack": 32}.get(word, 64)
            assert (
                f"srun --mpi=pmi2 --kill-on-bad-exit -n {tasks} shifter spreadflow {word} "
                in command
            )
            assert f" --ranks {tasks} " in command
        else:
            assert "srun" not in command
            assert f"shifter spreadflow {word} " in command


def test_local_ranks_are_the_cores_granted(new_trial):
    trial = new_trial({"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}})
    for cores, expected in ((1, "spreadflow index"), (2, "mpiexec -n 2 spreadflow index")):
        output = trial.snakemake("--dry-run", "--printshellcmds", "--cores", str(cores))
        assert expected in output
        assert f" --ranks {cores} --images" in output

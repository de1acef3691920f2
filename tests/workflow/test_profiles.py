"""The merged settings of every profile, and that none overrides another."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spreadflow.cli import main
from spreadflow.trial import BY_WORD, STAGES
from spreadflow.trial.machines import BY_NAME, MACHINES

pytestmark = pytest.mark.chain

REPOSITORY = Path(__file__).parents[2]
SETTINGS = """
import json, sys
from snakemake.cli import parse_args
_, args = parse_args(sys.argv[1:])
print(json.dumps({k: getattr(args, k) for k in ("executor", "jobs", "cores", "latency_wait")}))
"""
DOCUMENT = REPOSITORY / "docs" / "commands.md"


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
    keys = yaml.safe_load((REPOSITORY / "profiles" / "default" / "config.yaml").read_text()).keys()
    assert keys <= {"cores", "rerun-incomplete"}, "it wins over --profile slurm, key by key"


def shown(output: str) -> set[str]:
    """The commands of stages that Snakemake would run, as docs/commands.md shows them."""
    words = {stage.word for stage in STAGES}
    here = os.environ.get("PWD", "")  # Snakemake puts variables of its own environment in
    commands = set()
    for line in output.replace(here, "$PWD").splitlines():
        match = re.search(r"Shell command: (.*\bspreadflow (\w+) .* --out \S+) 2> ", line)
        if match and match.group(2) in words:
            commands.add(re.sub(r"--config '.*' --ranks", "--config … --ranks", match.group(1)))
    return commands


def documented(name: str) -> set[str]:
    """The commands in the section of a profile in docs/commands.md."""
    section = DOCUMENT.read_text().partition(f"## {name}\n")[2].partition("\n## ")[0]
    lines = section.split("```")[1].strip().splitlines()
    return {line for line in lines if not line.startswith("qsub ")}


def dry_run(trial, *argv: object) -> set[str]:
    return shown(trial.snakemake("--dry-run", "--printshellcmds", *map(str, argv)))


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_commands_are_those_of_the_document(whole_trial, machine):
    """Launcher outside, container inside, both from the profile; one-rank rules have no
    launcher.
    """
    commands = dry_run(whole_trial, "--workflow-profile", machine.name)
    assert documented(machine.name) <= commands
    assert len(documented(machine.name)) == len(STAGES)
    assert len(commands) == len(STAGES) + 2  # the images of all three runs


def test_commands_of_a_workstation_are_those_of_the_document(whole_trial):
    output = whole_trial.snakemake("--dry-run", "--printshellcmds", "--cores", "8")
    launcher = str(Path(sys.prefix, "bin", "mpiexec"))
    commands = shown(output.replace(launcher, "mpiexec"))
    assert documented("default") <= commands
    assert len(documented("default")) == len(STAGES)


def test_pictures_are_drawn_while_stages_run_on_a_cluster(whole_trial):
    """On one machine one job draws them all at the end, unless one is asked for."""
    words = ("--dry-run", "--printshellcmds")
    on_cluster = whole_trial.snakemake(*words, "--workflow-profile", "slurm")
    alone = whole_trial.snakemake(*words, "--cores", "8")
    asked_for = whole_trial.snakemake(*words, "--cores", "8", "results/t/index.png")
    for output, n in ((on_cluster, len(STAGES)), (alone, 0), (asked_for, 1)):
        assert output.count("Shell command: ") > 1
        assert len(re.findall(r"Shell command: .*spreadflow summary \w+ ", output)) == n


@pytest.mark.parametrize("name", ["slurm", "alcf"])
def test_one_allocation_runs_the_same_commands(whole_trial, name):
    profile = ("--workflow-profile", name)
    alone = dry_run(whole_trial, *profile, "--executor", "local", "--cores", 8)
    assert alone == dry_run(whole_trial, *profile)


def test_a_new_profile_is_one_of_these(whole_trial, tmp_path):
    options = ["--like", "nersc", "--account", "m1234", "--nodes", "3", "--container", "shifter"]
    assert main(["site", "new", "mine", *options, "--folder", str(tmp_path)]) == 0
    settings = yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text())
    assert settings["default-resources"]["slurm_account"] == "m1234"

    commands = dry_run(whole_trial, "--workflow-profile", tmp_path / "mine")
    launcher = BY_NAME["nersc"].launcher
    for command in commands:
        word = command.split("spreadflow ")[1].split()[0]
        stage = BY_WORD[word]
        n_ranks = 384 // stage.ranks_divisor if stage.is_parallel else 1
        prefix = f"{launcher} -n {n_ranks} " if stage.is_parallel else ""
        assert command.startswith(f"{prefix}shifter spreadflow {word} ")
        assert f" --ranks {n_ranks} " in command


def test_local_ranks_are_the_cores_granted(new_trial):
    trial = new_trial({"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}})
    for cores, expected in ((1, "spreadflow index"), (2, "mpiexec -n 2 spreadflow index")):
        output = trial.snakemake("--dry-run", "--printshellcmds", "--cores", str(cores))
        assert expected in output
        assert f" --ranks {cores} --images" in output

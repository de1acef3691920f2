"""The profiles of machines: what each asks of its scheduler, and `spreadflow site new`."""

import math
import re
from pathlib import Path

import pytest
import yaml

from spreadflow.cli import main
from spreadflow.trial import STAGES
from spreadflow.trial.machines import BY_NAME, MACHINES, SCHEDULERS
from spreadflow.trial.profiles import granted, profile, text
from spreadflow.trial.threads import THREAD_CAPS

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted((REPOSITORY / "src" / "spreadflow").rglob("*.py"))
PARALLEL = {stage.word for stage in STAGES if stage.is_parallel}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_a_profile_asks_for_what_each_stage_needs(machine):
    settings = profile(machine)
    assert yaml.safe_load(text(machine)) == settings
    assert settings["executor"] == SCHEDULERS[machine.scheduler].settings["executor"]

    for stage in STAGES:
        resources = granted(settings, stage)
        if not stage.is_parallel:
            assert (resources.mpi, resources.tasks) == ("", 1)
            continue
        start = machine.devices if machine.devices and stage.takes_devices else machine
        assert resources.mpi == start.launcher
        assert resources.tasks > 1
        assert resources.runtime <= (machine.longest_minutes or stage.minutes)
        if machine.has_whole_nodes:
            assert resources.nodes == math.ceil(resources.tasks / start.ranks_per_node)
            assert machine.scheduler == "pbs" or resources.mem_mb == 0
            by_rule = stage.grows and machine.scheduler == "slurm"
            assert resources.get("mem_mb_per_cpu", None) == (0 if by_rule else None)
        elif stage.grows:  # its rule asks, by what there is to do
            assert resources.get("mem_mb_per_cpu", None) is None
        else:
            assert resources.mem_mb_per_cpu * machine.cpus_per_rank >= stage.memory_mb


@pytest.mark.parametrize("name", ["nersc-gpu", "olcf-gpu"])
def test_ranks_of_stages_that_take_no_device_are_by_cores(name):
    machine = BY_NAME[name]
    rules = profile(machine)["set-resources"]
    by_cores = profile(machine._replace(devices=None))["set-resources"]
    for word in ("index", "reindex", "merge", "annulus", "pack"):
        assert rules[word] == by_cores[word]
        assert "--gpus-per-task" not in rules[word]["mpi"]
    for word in ("simulate", "stage1", "correlate"):
        assert rules[word]["tasks"] == machine.nodes * machine.devices.ranks_per_node
        assert rules[word]["tasks"] < by_cores[word]["tasks"]
        assert "--gpus-per-task=1" in rules[word]["mpi"]


def test_plugins_that_know_no_ranks_are_told_slots():
    lsf = profile(BY_NAME["lsf"])["set-resources"]["index"]
    assert (lsf["cpus_per_task"], lsf["ptile"], lsf["tasks"]) == (64, 32, 64)
    sge = profile(BY_NAME["sge"])["set-resources"]["index"]
    assert (sge["threads"], sge["tasks"]) == (64, 64)


def test_options_change_the_row(tmp_path, capsys):
    options = ["--like", "alcf", "--account", "Catalyst", "--nodes", "12", "--ranks-per-node", "16"]
    options += ["--launcher", "mpiexec --ppn 16", "--longest-minutes", "60"]
    options += ["--resource", "pbs_queue=prod", "pbs_extra=-l filesystems=eagle"]
    assert main(["site", "new", "mine", *options, "--folder", str(tmp_path)]) == 0
    assert "snakemake --workflow-profile mine" in capsys.readouterr().out

    settings = yaml.safe_load((tmp_path / "mine" / "config.yaml").read_text())
    assert settings["default-resources"]["pbs_account"] == "Catalyst"
    assert settings["default-resources"]["pbs_queue"] == "prod"
    assert settings["default-resources"]["pbs_extra"] == "-l filesystems=eagle"
    index = settings["set-resources"]["index"]
    assert (index["mpi"], index["tasks"], index["nodes"]) == ("mpiexec --ppn 16", 192, 12)
    assert index["runtime"] == 60
    assert set(settings["set-resources"]) == PARALLEL


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resource", "qos"], "expected KEY=VALUE; found qos"),
        (["--resource", "a b=1"], "expected KEY=VALUE; found a b=1"),
        (["--nodes", "0"], "expected nodes and ranks per node of 1 or more"),
        (["--nodes", "1", "--ranks-per-node", "1"], "two ranks in all; found 1 and 1"),
    ],
)
def test_options_that_can_not_be_are_refused(tmp_path, capsys, options, message):
    status = main(["site", "new", "mine", *options, "--folder", str(tmp_path)])
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("name", ["../mine", "a b", ""])
def test_a_profile_is_one_folder(tmp_path, capsys, name):
    assert main(["site", "new", name, "--folder", str(tmp_path)]) == 2
    assert "expected a name of letters" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_variables_that_are_set_or_read_are_explained():
    """Those that profiles set, and that the program sets or reads, stand in docs/facilities.md."""
    profiles = "".join(map(text, MACHINES))
    program = "".join(path.read_text() for path in SOURCES)
    names = set(re.findall(r"\b([A-Z][A-Z0-9_]+)=", profiles)) | set(THREAD_CAPS)
    names |= set(re.findall(r"environ\.get\(\"(\w+)\"", program))
    explained = re.findall(
        r"`([A-Z][A-Z0-9_]+)", (REPOSITORY / "docs" / "facilities.md").read_text()
    )

    assert {"MPI4PY_LIBMPI", "MPICH_GPU_SUPPORT_ENABLED", "NUMBA_CACHE_DIR"} <= names
    assert names - set(explained) == set()


def test_a_profile_that_is_there_is_kept(tmp_path, capsys):
    path = tmp_path / "mine" / "config.yaml"
    path.parent.mkdir()
    path.write_text("executor: slurm\n")
    assert main(["site", "new", "mine", "--folder", str(tmp_path)]) == 4
    assert path.read_text() == "executor: slurm\n"
    assert "expected no profile of this name" in capsys.readouterr().err

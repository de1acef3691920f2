"""What jobs ask for and is not there is told before they start."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from spreadflow.config import parse
from spreadflow.doctor import jobs, profile
from spreadflow.doctor.host import Answer
from spreadflow.doctor.jobs import Job
from spreadflow.errors import ConfigError

REPOSITORY = Path(__file__).parents[2]
TWO_GPUS = '{"jax": "0.10", "platform": "gpu", "kind": "x", "n_devices": 2, "seconds": 0.1}'
SMALL = {"trial": "t", "runs": {"r": {"simulate": {"n_single": 2}}}}


@pytest.fixture
def probed(monkeypatch):
    """`probed(status, text)`: what JAX answers."""

    def plant(status: int, text: str) -> None:
        monkeypatch.setattr(jobs, "probe", lambda _host, _name: Answer(status, text))

    return plant


def test_a_launcher_that_is_not_on_path_is_told_with_its_rules(host, stand_in):
    asked = [Job("index", "srun --mpi=pmi2", 64), Job("merge", "srun --mpi=pmi2", 16), Job("cells")]
    (finding,) = jobs.examine(host, asked)
    assert finding.check == "launcher of index, merge"
    assert finding.found == "srun is not on PATH"
    assert "`mpi`" in finding.remedy

    many = [Job(rule, "srun", 2) for rule in ("simulate", "index", "level0", "merge", "spread")]
    (finding,) = jobs.examine(host, many)
    assert finding.check == "launcher of simulate, index, level0 and 2 more"

    path = stand_in("srun")
    (finding,) = jobs.examine(host, asked)
    assert (finding.found, finding.is_good) == (str(path), True)


def test_the_launcher_of_one_rank_is_not_looked_for(host):
    assert list(jobs.examine(host, [Job("index", "srun", 1)])) == []


def test_a_container_that_is_not_there_is_told(host, stand_in, tmp_path):
    image = tmp_path / "spreadflow.sif"
    asked = [Job("index", container=f"FOO=bar apptainer exec --bind /lustre {image}")]
    (finding,) = jobs.examine(host, asked)
    assert finding.found == f"no image {image}"
    assert "containers/README.md" in finding.remedy

    image.touch()
    (finding,) = jobs.examine(host, asked)
    assert finding.found == "apptainer is not on PATH"

    stand_in("apptainer")
    assert all(finding.is_good for finding in jobs.examine(host, asked))


def test_what_nodes_may_have_does_not_keep_jobs_from_being_submitted(host, tmp_path):
    """Apptainer is on the nodes of some sites alone; images lie where all see them."""
    asked = [Job("index", "mpiexec", 64, "apptainer exec x.SIF", is_here=False)]
    findings = list(jobs.examine(host, asked))
    assert [finding.is_good for finding in findings] == [True, True]
    assert findings[0].found == "mpiexec is not on PATH here; the nodes that run it may have it"

    asked = [Job("index", container=f"apptainer exec {tmp_path}/x.sif", is_here=False)]
    (finding,) = jobs.examine(host, asked)
    assert not finding.is_good


def test_fewer_devices_than_ranks_are_told(host, probed):
    probed(0, TWO_GPUS)
    (host.devices / "nvidia0").touch()
    several = [Job("index", "mpiexec", 16), Job("stage1", "mpiexec", 8), Job("stage2")]
    (finding,) = jobs.devices_there(host, several)
    assert finding == ("devices", "2 × gpu, shared by the 8 ranks of stage1", "")
    (finding,) = jobs.devices_there(host, [Job("stage1", "mpiexec", 2)])
    assert finding == ("devices", "2 × gpu", "")


def test_a_device_that_is_not_there_is_told(host, probed):
    probed(1, "Traceback\nRuntimeError: Unable to initialize backend 'cuda'")
    asked = host._replace(environment={**host.environment, "JAX_PLATFORMS": "cuda"})
    (finding,) = jobs.devices_there(asked, [Job("stage1")])
    assert finding.found == "RuntimeError: Unable to initialize backend 'cuda'"
    assert finding.remedy == "unset JAX_PLATFORMS"


@pytest.mark.parametrize(
    ("platforms", "job"),
    [
        ("", Job("stage1", "mpiexec", 8)),
        ("cpu", Job("stage1", "mpiexec", 8)),
        ("cuda", Job("index", "mpiexec", 8)),
        ("cuda", Job("stage1", "srun", 8, is_here=False)),
        ("cuda", Job("stage1", "mpiexec", 8, container="apptainer exec x.sif")),
    ],
    ids=["none asked for", "none wanted", "without JAX", "on a cluster", "in a container"],
)
def test_jax_is_not_started_where_devices_are_not_of_this_machine(host, platforms, job):
    """The probe is the real one: it would find a device, or miss one."""
    asked = host._replace(environment={**host.environment, "JAX_PLATFORMS": platforms})
    assert jobs.devices_there(asked, [job]) == []


def test_what_is_not_there_is_refused_in_one_sentence(host):
    with pytest.raises(ConfigError) as error:
        jobs.refuse(host, [Job("index", "srun", 2)])
    sentence = str(error.value)
    assert sentence.startswith("launcher of index: expected what its jobs ask for; found srun is ")
    assert sentence.endswith("`snakemake --no-hooks` leaves this check out.")


def test_what_snakemake_plans_is_asked_for_without_what_starts_no_program():
    resources = {"mpi": "srun", "tasks": 4}
    planned = [
        SimpleNamespace(rule=SimpleNamespace(name="all"), resources={}, is_norun=True),
        SimpleNamespace(rule=SimpleNamespace(name="index"), resources=resources, is_norun=False),
    ]
    assert jobs.asked(planned, is_here=False) == [Job("index", "srun", 4, is_here=False)]


def test_jobs_under_a_profile_are_those_of_the_workflow(host, monkeypatch, stand_in):
    monkeypatch.chdir(REPOSITORY)
    config = parse(SMALL)
    by_rule = {job.rule: job for job in profile.jobs(config, profile.read_profile("slurm"), host)}
    launcher = "srun --mpi=pmi2 --kill-on-bad-exit"
    assert by_rule["index"] == Job("index", launcher, 64, is_here=False)
    assert by_rule["cells"] == Job("cells", is_here=False)

    stand_in("mpiexec")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2})
    by_rule = {job.rule: job for job in profile.jobs(config, profile.read_profile("default"), host)}
    assert by_rule["index"] == Job("index", host.launcher, 3)
    assert by_rule["cells"].ranks == 1


def test_a_profile_may_list_its_resources(host):
    settings = {"default-resources": ["container=shifter", "runtime=60"], "executor": "slurm"}
    for job in profile.jobs(parse(SMALL), settings, host):
        assert (job.container, job.is_here) == ("shifter", False)


def test_a_profile_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ConfigError, match=r"there are: .*default, .*slurm.*found nowhere"):
        profile.read_profile("nowhere")

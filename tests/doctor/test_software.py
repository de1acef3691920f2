"""What is wrong with programs and libraries is told, with what mends it."""

import shutil
import signal
import sys
import time
import tomllib
from pathlib import Path

import pytest

from spreadflow.doctor import software
from spreadflow.doctor.host import NOT_THERE, Answer, ask

REPOSITORY = Path(__file__).parents[2]
LIBRARY = '{"mpi4py": "4.1", "version": "MPICH Version: 5.0.2\\nMPICH Release date: 2026"}'
CPU = '{"jax": "0.10", "platform": "cpu", "kind": "cpu", "n_devices": 1, "seconds": 0.1}'

ALONE = 'shift 2\nexec "$@"'
"""A launcher of another MPI: each process believes it is alone."""


@pytest.fixture
def answers(monkeypatch):
    """`answers(library=TEXT)`: what probes print."""

    def plant(**texts: str) -> None:
        monkeypatch.setattr(
            software, "probe", lambda _host, name, _launcher=(): Answer(0, texts[name])
        )

    return plant


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("HYDRA build details:\n    Version: 5.0.2", "MPICH"),
        ("MPI VERSION    : CRAY MPICH version 8.1.29 (ANL base 3.4a2)", "MPICH"),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.18", "MPICH"),
        ("mpirun (Open MPI) 4.1.4", "Open MPI"),
        ("Open MPI v5.0.11, package: Open MPI builder", "Open MPI"),
        ("mpiexec (OpenRTE) 4.1.4", "Open MPI"),
        ("aprun 1.0", None),
    ],
)
def test_the_family_of_an_mpi_is_known_by_what_it_says(text, family):
    assert software.family(text) == family


@pytest.mark.chain
def test_a_launcher_of_another_family_than_the_library_is_to_be_mended(host, stand_in, answers):
    answers(library=LIBRARY)
    stand_in("mpiexec", 'echo "mpiexec (OpenRTE) 4.1.4"')
    finding = software.launcher(host)
    assert finding.found.endswith("mpiexec of Open MPI, but the library is of MPICH")
    assert finding.remedy == software.OWN_MPI

    other = {**host.environment, "MPI4PY_LIBMPI": "/opt/libmpi.so.12"}
    finding = software.launcher(host._replace(environment=other))
    assert finding.remedy == "unset MPI4PY_LIBMPI"

    stand_in("mpiexec", 'echo "HYDRA build details:"')
    assert software.launcher(host).is_good


def test_a_launcher_that_waits_for_room_in_a_step_is_started_in_an_allocation(
    host, stand_in, monkeypatch
):
    stand_in("mpiexec")
    late = Answer(-signal.SIGKILL, "no answer in 60 s")
    monkeypatch.setattr(software, "probe", lambda _host, _name, _launcher: late)
    assert software.two_ranks(host).remedy == software.OWN_MPI
    in_job = host._replace(environment={**host.environment, "SLURM_JOB_ID": "7"})
    assert software.two_ranks(in_job).remedy == "salloc -n 2 spreadflow doctor"


def test_without_a_launcher_two_ranks_are_not_tried(host):
    for check in (software.launcher, software.two_ranks):
        assert check(host).remedy == software.OWN_MPI


@pytest.mark.parametrize(
    ("names", "idle", "extra"),
    [
        (("nvidia0", "nvidia1", "nvidiactl"), "nvidia0, nvidia1", "cuda"),
        (("kfd", "dri"), "kfd", "rocm"),
    ],
)
def test_a_gpu_that_lies_idle_is_to_be_mended(host, answers, names, idle, extra):
    """By an extra that there is: the images and the lock are of the same."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert extra in project["optional-dependencies"]
    answers(devices=CPU)
    assert software.jax(host).is_good
    for name in names:
        (host.devices / name).touch()
    finding = software.jax(host)
    assert finding.found.endswith(f"; idle: {idle}")
    assert f"'spreadflow[{extra}]'" in finding.remedy

    left_idle = host._replace(environment={**host.environment, "JAX_PLATFORMS": "cpu"})
    assert software.jax(left_idle).is_good

    answers(devices=CPU.replace('"cpu"', '"gpu"', 1))
    assert software.jax(host).is_good


def test_slurm_without_its_executor_is_to_be_mended(host, stand_in, tmp_path):
    assert software.snakemake(host).remedy == "pip install snakemake"
    _package(tmp_path, "snakemake", "9.27.1")
    with_packages = host._replace(paths=(str(tmp_path),))
    finding = software.snakemake(with_packages)
    assert finding == ("Snakemake", "Snakemake 9.27.1 with the executors local", "")

    stand_in("sbatch")
    finding = software.snakemake(with_packages)
    assert finding.remedy == "pip install snakemake-executor-plugin-slurm"
    _package(tmp_path, "snakemake-executor-plugin-slurm", "2.8.0")
    assert software.snakemake(with_packages).found.endswith("executors local, slurm")


def _package(folder: Path, name: str, version: str) -> None:
    """Write what tells Python of an installed package."""
    information = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def test_programs_that_run_containers_are_listed(host, stand_in):
    assert software.containers(host).found == "none"
    for name in ("bwrap", "apptainer"):
        stand_in(name)
    assert software.containers(host).found == "apptainer, bwrap"


@pytest.mark.chain
def test_an_srun_that_does_not_start_programs_of_the_library_is_to_be_mended(
    host, stand_in, answers
):
    answers(library=LIBRARY)
    assert software.slurm(host).found == "none"
    stand_in("srun", "echo 'srun: fatal: no configuration'; exit 1")
    assert software.slurm(host).found == "srun without a cluster: srun: fatal: no configuration"
    listed = "MPI plugin types are...\n\tnone\n\t{kind}\nspecific pmix plugins: pmix_v4"
    stand_in("srun", f'[ "$1" = --mpi=list ] && echo "{listed.format(kind="pmi2")}"')
    assert software.slurm(host) == ("Slurm", "srun --mpi of none, pmi2", "")

    stand_in("srun", f'[ "$1" = --mpi=list ] && echo "{listed.format(kind="pmix")}"')
    finding = software.slurm(host)
    assert finding.found == "srun --mpi of none, pmix; MPICH needs pmi2 or cray_shasta"
    assert "`mpi`" in finding.remedy


@pytest.mark.chain
def test_a_program_is_killed_with_what_it_started_where_it_does_not_answer(host, stand_in):
    start = time.monotonic()
    answer = ask(host, [stand_in("slow", "echo begins; /bin/sleep 60 & wait")], patience_s=0.5)
    assert time.monotonic() - start < 30
    assert answer.text.startswith("begins")
    assert answer.reason == "no answer in 0.5 s"
    assert ask(host, ["no-such-program"]).status == NOT_THERE


@pytest.mark.chain
def test_a_library_that_does_not_load_is_to_be_mended(real_host, tmp_path):
    broken = tmp_path / "libmpi.so.12"
    broken.write_bytes(b"no library")
    environment = {**real_host.environment, "MPI4PY_LIBMPI": str(broken)}
    finding = software.mpi_library(real_host._replace(environment=environment))
    assert str(broken) in finding.found
    assert finding.remedy == "unset MPI4PY_LIBMPI"

    package = tmp_path / "packages" / "mpi4py"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('no mpi4py here')")
    path = f"{package.parent}:{real_host.environment.get('PYTHONPATH', '')}"
    environment = {**real_host.environment, "PYTHONPATH": path}
    finding = software.mpi_library(real_host._replace(environment=environment))
    assert finding == ("MPI library", "ImportError: no mpi4py here", software.OWN_MPI)


@pytest.mark.chain
def test_a_launcher_whose_processes_are_each_alone_is_to_be_mended(real_host, stand_in):
    stand_in("mpiexec", ALONE)
    finding = software.two_ranks(real_host)
    assert "expected 2 MPI ranks (--ranks); found a communicator of 1" in finding.found
    assert finding.remedy == software.OWN_MPI


@pytest.mark.chain
def test_this_environment_has_what_stages_need(real_host):
    assert shutil.which("mpiexec", path=str(Path(sys.prefix, "bin")))
    for check in (
        software.mpi_library,
        software.launcher,
        software.two_ranks,
        software.jax,
        software.hdf5,
        software.snakemake,
    ):
        finding = check(real_host)
        assert finding.is_good, finding

"""The one table of machines that there is a profile for, and how their schedulers are asked.

What a row says was read in the documentation that profiles/README.md names beside it. A profile is
written from a row by `trial/profiles.py`.
"""

from types import MappingProxyType
from typing import NamedTuple

Settings = dict[str, str | int | bool]
"""Options of Snakemake, or resources of a job, by name."""

NONE: Settings = MappingProxyType({})  # type: ignore[assignment]
"""No options."""


class Scheduler(NamedTuple):
    """A batch system, and the executor of Snakemake that submits to it."""

    account: str
    """the resource that says who pays"""
    settings: Settings
    """options of Snakemake that every profile for the scheduler has"""
    extra: str
    """what to install: the extra of this package"""


class DeviceRanks(NamedTuple):
    """What starts the ranks of a stage that takes devices, in place of a machine's fields of these
    names.
    """

    launcher: str
    ranks_per_node: int
    """as many as there are devices"""
    cpus_per_rank: int


class Machine(NamedTuple):
    """A machine: its scheduler, and what starts ranks there."""

    name: str
    """name of the profile"""
    meaning: str
    """machine, nodes and container, in words"""
    scheduler: str
    """a key of `SCHEDULERS`"""
    launcher: str
    """what starts ranks, without their number"""
    ranks_per_node: int
    nodes: int
    """how many nodes a stage on all ranks of the profile has"""
    container: str = ""
    """prefix of every command; empty: the environment itself"""
    cpus_per_rank: int = 1
    """hardware threads of a rank, as the scheduler counts them"""
    devices: DeviceRanks | None = None
    """how stages that take devices are started, where it has some; the others have ranks by cores
    """
    has_whole_nodes: bool = False
    """whether a job gets whole nodes, and is to ask for no memory"""
    longest_minutes: int | None = None
    """time limit of the queue, where it is below that of stages, minutes"""
    resources: Settings = NONE
    """default resources of jobs"""
    settings: Settings = NONE
    """options of Snakemake that the scheduler's profiles do not share"""

    @property
    def n_ranks(self) -> int:
        """How many ranks a stage on all ranks of the profile has."""
        return self.nodes * self.ranks_per_node


SCHEDULERS = {
    "slurm": Scheduler(
        account="slurm_account",
        settings={"executor": "slurm"},
        extra="slurm",
    ),
    "pbs": Scheduler(
        account="pbs_account",
        settings={
            "executor": "cluster-generic",
            "cluster-generic-submit-cmd": "qsub -V -N {rule} -A {resources.pbs_account} "
            "-q {resources.pbs_queue} -l select={resources.nodes}:{resources.pbs_select} "
            "-l walltime={resources.runtime}:00 {resources.pbs_extra} -j oe -o .snakemake/",
            "cluster-generic-status-cmd": "spreadflow pbs-status",
            "cluster-generic-cancel-cmd": "qdel",
            "seconds-between-status-checks": 30,
        },
        extra="pbs",
    ),
    "lsf": Scheduler(
        account="lsf_project",
        settings={"executor": "lsf"},
        extra="lsf",
    ),
    "sge": Scheduler(
        account="sge_project",
        settings={"executor": "sge"},
        extra="sge",
    ),
}
"""Schedulers by their name."""

MPI4PY = "MPI4PY_LIBMPI=libmpi.so.12"
"""Variable with which mpi4py in a container takes the MPI that the site puts there."""

SHIFTER = f"shifter --image=docker:REPOSITORY/spreadflow:{{}} --module={{}} --env={MPI4PY}"
"""Prefix of commands at NERSC: tag of the image, modules of Shifter."""

PODMAN = (
    'podman-hpc run --rm --mpi {}-v "$PWD:$PWD" -v "$SCRATCH:$SCRATCH" -w "$PWD" '
    f"--env {MPI4PY} spreadflow:{{}}"
)
"""The same with Podman: options, tag of the image."""

APPTAINER = f"apptainer exec {{}}--env {MPI4PY} spreadflow-{{}}.sif"
"""Prefix of commands where there is Apptainer: options, name of the image."""

PERLMUTTER = Machine(
    name="nersc",
    meaning="NERSC Perlmutter, CPU nodes, Shifter",
    scheduler="slurm",
    launcher="srun --mpi=cray_shasta --kill-on-bad-exit --cpus-per-task=2 --cpu-bind=cores",
    ranks_per_node=128,
    nodes=2,
    container=SHIFTER.format("cpu", "mpich"),
    cpus_per_rank=2,
    has_whole_nodes=True,
    resources={"slurm_account": "ACCOUNT", "constraint": "cpu", "qos": "regular"},
)

PERLMUTTER_GPU = PERLMUTTER._replace(
    name="nersc-gpu",
    meaning="NERSC Perlmutter, GPU nodes with a rank for each of 4 A100, else of 64 cores, Shifter",
    ranks_per_node=64,
    nodes=4,
    container=f"{SHIFTER.format('cuda', 'gpu,mpich')} --env=MPICH_GPU_SUPPORT_ENABLED=0",
    devices=DeviceRanks(
        launcher="srun --mpi=cray_shasta --kill-on-bad-exit --cpus-per-task=32 --cpu-bind=cores "
        "--gpus-per-task=1 --gpu-bind=none",
        ranks_per_node=4,
        cpus_per_rank=32,
    ),
    resources={
        "slurm_account": "ACCOUNT",
        "constraint": "gpu",
        "qos": "regular",
        "slurm_extra": "--gpus-per-node=4",
    },
)

FRONTIER = Machine(
    name="olcf",
    meaning="OLCF Frontier, CPU cores, Apptainer",
    scheduler="slurm",
    launcher="srun --kill-on-bad-exit --cpus-per-task=1",
    ranks_per_node=56,
    nodes=4,
    container=APPTAINER.format('--bind "$PWD" ', "cpu"),
    has_whole_nodes=True,
    longest_minutes=120,
    resources={"slurm_account": "ACCOUNT", "slurm_partition": "batch"},
)

POLARIS = Machine(
    name="alcf",
    meaning="ALCF Polaris, CPU cores, PBS, Apptainer",
    scheduler="pbs",
    launcher="mpiexec --ppn 32",
    ranks_per_node=32,
    nodes=4,
    container=APPTAINER.format("-B /opt -B /var/run/palsd/ ", "cpu"),
    has_whole_nodes=True,
    resources={
        "pbs_account": "ACCOUNT",
        "pbs_queue": "preemptable",
        "pbs_select": "system=polaris",
        "pbs_extra": "-l place=scatter -l filesystems=home:eagle",
    },
    settings={"retries": 2},
)

MACHINES = (
    Machine(
        name="slurm",
        meaning="Any Slurm",
        scheduler="slurm",
        launcher="srun --mpi=pmi2 --kill-on-bad-exit",
        ranks_per_node=32,
        nodes=2,
    ),
    PERLMUTTER,
    PERLMUTTER._replace(
        name="nersc-podman",
        meaning="NERSC Perlmutter, CPU nodes, podman-hpc",
        container=PODMAN.format("", "cpu"),
    ),
    PERLMUTTER_GPU,
    PERLMUTTER_GPU._replace(
        name="nersc-gpu-podman",
        meaning="NERSC Perlmutter, GPU nodes with a rank for each of 4 A100, else of 64 cores, "
        "podman-hpc",
        container=PODMAN.format("--gpu --env MPICH_GPU_SUPPORT_ENABLED=0 ", "cuda"),
    ),
    FRONTIER,
    FRONTIER._replace(
        name="olcf-gpu",
        meaning="OLCF Frontier, a rank for each of 8 halves of MI250X, else of 56 cores, Apptainer",
        container=APPTAINER.format('--rocm --bind "$PWD" ', "rocm"),
        devices=DeviceRanks(
            launcher="srun --kill-on-bad-exit --cpus-per-task=7 --gpus-per-task=1 "
            "--gpu-bind=closest",
            ranks_per_node=8,
            cpus_per_rank=7,
        ),
    ),
    POLARIS,
    POLARIS._replace(
        name="alcf-aurora",
        meaning="ALCF Aurora, CPU cores, PBS, no container",
        launcher="mpiexec --ppn 96",
        ranks_per_node=96,
        nodes=2,
        container="",
        longest_minutes=360,
        resources={
            "pbs_account": "ACCOUNT",
            "pbs_queue": "prod",
            "pbs_select": "system=aurora",
            "pbs_extra": "-l place=scatter -l filesystems=home:flare",
        },
        settings={},
    ),
    Machine(
        name="lcls",
        meaning="S3DF at SLAC for LCLS, CPU nodes, Apptainer",
        scheduler="slurm",
        launcher="srun --mpi=pmi2 --kill-on-bad-exit",
        ranks_per_node=120,
        nodes=2,
        container="apptainer exec --bind /sdf spreadflow-cpu.sif",
        resources={"slurm_account": "lcls:EXPERIMENT", "slurm_partition": "milano"},
    ),
    Machine(
        name="lsf",
        meaning="Any LSF",
        scheduler="lsf",
        launcher="mpiexec",
        ranks_per_node=32,
        nodes=2,
        resources={"lsf_project": "ACCOUNT", "lsf_queue": "QUEUE"},
    ),
    Machine(
        name="sge",
        meaning="Any Grid Engine",
        scheduler="sge",
        launcher="mpiexec",
        ranks_per_node=32,
        nodes=2,
        resources={"sge_project": "ACCOUNT", "sge_pe": "mpi", "sge_export_env": 1},
    ),
)
"""All machines, in the order of the documents."""

BY_NAME = {machine.name: machine for machine in MACHINES}
"""The machines by the name of their profile."""

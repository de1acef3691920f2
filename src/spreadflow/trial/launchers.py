"""What launchers of MPI programs tell the processes that they start by variables of their
environment, and what is left behind of it.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

RANK_AND_SIZE = {
    "PMI_RANK": "PMI_SIZE",
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
    "SLURM_PROCID": "SLURM_STEP_NUM_TASKS",
}
"""Variable that tells a process its rank → that which tells how many there are: of MPICH and its
kin, Open MPI, and `srun`. Slurm sets the first of its two for a batch script, too.
"""

LEFT_BEHIND = (
    "PMI_RANK",
    "PMI_SIZE",
    "PMI_FD",
    "PMI_HOSTNAME",
    "PMI_PORT",
    "PMI_ID",
    "PMI_JOBID",
    "PMI_SPAWNED",
    "PMI_LOCAL_*",
    "PMI_UNIVERSE_SIZE",
    "PMI_CONTROL_*",
    "PMI_SHARED_SECRET",
    "PMIX_RANK",
    "PMIX_NAMESPACE",
    "PMIX_SERVER_*",
    "PMIX_HOSTNAME",
    "PMIX_SECURITY_MODE",
    "PMIX_PTL_MODULE",
    "PMIX_BFROP_BUFFER_TYPE",
    "PMIX_GDS_MODULE",
    "PMIX_SYSTEM_TMPDIR",
    "PMIX_DSTORE_*",
    "OMPI_COMM_WORLD_*",
    "OMPI_UNIVERSE_SIZE",
    "OMPI_NUM_APP_CTX",
    "OMPI_FIRST_RANKS",
    "OMPI_APP_CTX_NUM_PROCS",
    "OMPI_FILE_LOCATION",
    "OMPI_MCA_ess*",
    "OMPI_MCA_orte_*",
    "PRTE_MCA_prte_*",
    "MPI_LOCALNRANKS",
    "MPI_LOCALRANKID",
    "HYDI_*",
    "PALS_RANKID",
    "PALS_NODEID",
    "PALS_APID",
    "PALS_APINFO",
    "PALS_LOCAL_*",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_STEPID",
    "SLURM_STEP_*",
    "SLURM_GTIDS",
    "SLURM_TASK_PID",
    "SLURM_SRUN_COMM_*",
    "SLURM_LAUNCH_NODE_IPADDR",
)
"""Variables, `*` for any ending, by which launchers tell a process its place. They are passed on to
all that it starts, where another launcher may take them for its own. What users set for MPI, PMIx,
Open MPI and jobs of Slurm is not among them.
"""


class Place(NamedTuple):
    """The place of a process among those that a launcher started."""

    rank: int
    """number of the process, from 0"""
    size: int
    """how many there are"""
    variables: tuple[str, str]
    """the two that say so"""


def place(environment: Mapping[str, str]) -> Place | None:
    """Return the place that the environment gives a process, the one among most where several
    launchers left theirs; None where no launcher started it.
    """
    places = [
        Place(int(environment[rank]), int(environment[size]), (rank, size))
        for rank, size in RANK_AND_SIZE.items()
        if environment.get(rank, "").isdecimal() and environment.get(size, "").isdecimal()
    ]
    return max(places, key=lambda one: one.size, default=None)


def left_behind(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that a launcher left in the environment."""
    return sorted(
        name for name in environment if any(fnmatchcase(name, pattern) for pattern in LEFT_BEHIND)
    )


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment as it was before a launcher started this process."""
    launchers = set(left_behind(environment))
    return {name: value for name, value in environment.items() if name not in launchers}

"""What launchers leave in the environment: it is understood, and nothing else is taken away."""

import pytest

from spreadflow.trial import launchers


@pytest.mark.parametrize(
    ("environment", "rank", "size"),
    [
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 1, 2),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}, 0, 4),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "64"}, 3, 8),
        (
            {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "PMI_RANK": "2", "PMI_SIZE": "3"},
            2,
            3,
        ),
    ],
    ids=["MPICH", "Open MPI", "srun", "mpiexec within srun"],
)
def test_the_place_of_a_process_is_what_its_launcher_says(environment, rank, size):
    assert launchers.place(environment)[:2] == (rank, size)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PMI_SIZE": "4"},
        {"PMI_RANK": "x", "PMI_SIZE": "4"},
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "64"},
    ],
    ids=["none", "half", "no numbers", "batch script"],
)
def test_without_a_launcher_there_is_no_place(environment):
    assert launchers.place(environment) is None


LEFT = {
    "PMI_RANK",
    "PMI_FD",
    "PMIX_NAMESPACE",
    "PMIX_SERVER_URI41",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "HYDI_CONTROL_FD",
    "MPI_LOCALRANKID",
    "PALS_LOCAL_RANKID",
    "SLURM_STEP_ID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_PROCID",
}
KEPT = {
    "PATH",
    "SLURM_JOB_ID",
    "SLURM_NTASKS",
    "SLURM_CONF",
    "SLURM_CPU_BIND",
    "SLURM_MPI_TYPE",
    "PMIX_MCA_gds",
    "OMPI_MCA_btl",
    "OMPI_ALLOW_RUN_AS_ROOT",
    "PMI_MMAP_SYNC_WAIT_TIME",
    "MPIR_CVAR_CH4_NETMOD",
    "HYDRA_IFACE",
}


def test_jobs_and_what_users_set_are_kept():
    environment = dict.fromkeys(LEFT | KEPT, "1")
    assert set(launchers.left_behind(environment)) == LEFT
    assert launchers.clean(environment).keys() == KEPT

"""Checks of programs and libraries: MPI and its launcher, JAX, HDF5, Snakemake, containers."""

import re
from importlib.metadata import distributions

from spreadflow.doctor.host import Finding, Host, ask, probe, short
from spreadflow.doctor.probes import N_RANKS

OWN_MPI = "pip install mpi4py mpich"
"""What brings a library and its launcher, which belong together."""

FAMILIES = {
    "MPICH": ("mpich", "hydra", "intel(r) mpi", "mvapich"),
    "Open MPI": ("open mpi", "open-mpi", "openrte", "open rte", "prte", "prrte"),
}
"""Family of MPI, whose launchers start programs of each of its libraries → words by which both
say that they belong to it.
"""

BY_SRUN = {"MPICH": ("pmi2", "cray_shasta"), "Open MPI": ("pmix",)}
"""Family of MPI → the kinds of `srun --mpi` that start its programs, as they are distributed."""

SRUN_KIND = re.compile(r"^(?:srun:)?\s*(none|pmi2|pmix\w*|cray_\w+)\s*$", re.MULTILINE)
"""A line of `srun --mpi=list` that names a kind."""

RUNTIMES = (
    "apptainer",
    "singularity",
    "shifter",
    "podman-hpc",
    "podman",
    "docker",
    "ch-run",
    "bwrap",
)
"""Programs that run another one in a container."""

EXECUTOR = "snakemake-executor-plugin-"
"""How the names of packages begin that let Snakemake submit jobs."""

EXTRAS = {"nvidia": "cuda", "kfd": "rocm"}
"""Beginning of the names of device files → the extra of this package for GPUs of their maker."""


def family(text: str) -> str | None:
    """Return the family of MPI that a launcher or a library says it belongs to; None where it says
    none.
    """
    lower = text.lower()
    for name, words in FAMILIES.items():
        if any(word in lower for word in words):
            return name
    return None


def mpi_library(host: Host) -> Finding:
    """Which MPI library mpi4py takes, and whether it can be loaded."""
    answer = probe(host, "library")
    figures = answer.figures
    if figures is None:
        return Finding("MPI library", answer.reason, _one_mpi(host))
    version = " ".join(figures["version"].split())
    return Finding("MPI library", f"{_short(version)}, by mpi4py {figures['mpi4py']}")


def _one_mpi(host: Host) -> str:
    """Return the command after which library and launcher are of one MPI."""
    return "unset MPI4PY_LIBMPI" if "MPI4PY_LIBMPI" in host.environment else OWN_MPI


def _short(version: str) -> str:
    """Return the name and number of an MPI library, of the pages that some print."""
    name = family(version)
    number = re.search(r"\d+\.\d+[\w.]*", version)
    return f"{name} {number[0]}" if name and number else version[:60]


def launcher(host: Host) -> Finding:
    """Which launcher the workflow takes where the profile names none, and whether it is of the
    family of the library.
    """
    path = host.which("mpiexec")
    if path is None:
        return Finding("launcher", "no mpiexec: stages run on one rank", OWN_MPI)
    version = ask(host, [path, "--version"]).text
    library = probe(host, "library").figures
    own = family(version)
    other = family(library["version"]) if library else None
    found = f"{short(path)} of {own or 'an unknown MPI'}"
    if own and other and own != other:
        return Finding("launcher", f"{found}, but the library is of {other}", _one_mpi(host))
    return Finding("launcher", found)


def two_ranks(host: Host) -> Finding:
    """Whether the launcher starts two ranks that know each other: they add up an array. Within a
    step of Slurm, which leaves no room for another, it does not.
    """
    path = host.which("mpiexec")
    if path is None:
        return Finding("two ranks", "not tried: there is no launcher", OWN_MPI)
    answer = probe(host, "ranks", [path, "-n", N_RANKS])
    if answer.figures is None:
        is_held = answer.is_late and "SLURM_JOB_ID" in host.environment
        remedy = "salloc -n 2 spreadflow doctor" if is_held else _one_mpi(host)
        return Finding("two ranks", answer.reason, remedy)
    milliseconds = 1e3 * answer.figures["seconds"]
    return Finding("two ranks", f"Allreduce of 1000 numbers in {milliseconds:.1f} ms")


def slurm(host: Host) -> Finding:
    """Whether there is a Slurm, and whether `srun --mpi` has a kind that starts programs of the
    library.
    """
    if host.which("srun") is None:
        return Finding("Slurm", "none")
    answer = ask(host, ["srun", "--mpi=list"])
    if answer.status:
        return Finding("Slurm", f"srun without a cluster: {answer.reason}")
    kinds = SRUN_KIND.findall(answer.text)
    found = f"srun --mpi of {', '.join(kinds) or 'no kind that it tells'}"
    library = probe(host, "library").figures
    own = family(library["version"]) if library else None
    needed = BY_SRUN.get(own or "", ())
    if kinds and needed and not set(kinds) & set(needed):
        remedy = "set the resource `mpi` of the profile to mpiexec"
        return Finding("Slurm", f"{found}; {own} needs {' or '.join(needed)}", remedy)
    return Finding("Slurm", found)


def jax(host: Host) -> Finding:
    """Which devices JAX computes on, by compiling a function, and whether a GPU lies idle."""
    answer = probe(host, "devices")
    figures = answer.figures
    platforms = host.environment.get("JAX_PLATFORMS")
    if figures is None:
        remedy = "unset JAX_PLATFORMS" if platforms else "pip install --force-reinstall jax jaxlib"
        return Finding("JAX", answer.reason, remedy)
    found = (
        f"JAX {figures['jax']} on {figures['n_devices']} × {figures['platform']} "
        f"({figures['kind']}), a function compiled in {figures['seconds']:.2f} s"
    )
    idle = accelerators(host)
    if idle and figures["platform"] == "cpu" and not platforms:
        extra = next(extra for begin, extra in EXTRAS.items() if idle[0].startswith(begin))
        remedy = f"pip install 'spreadflow[{extra}]', or export JAX_PLATFORMS=cpu"
        return Finding("JAX", f"{found}; idle: {', '.join(idle)}", remedy)
    return Finding("JAX", found)


def accelerators(host: Host) -> list[str]:
    """Return the names of the device files of GPUs: of NVIDIA one each, of AMD one for all."""
    names = sorted(path.name for path in host.devices.glob("*"))
    return [name for name in names if re.fullmatch(r"nvidia\d+|kfd", name)]


def hdf5(host: Host) -> Finding:
    """Whether HDF5 compresses with bitshuffle and LZ4, as products and images are."""
    answer = probe(host, "filters")
    if answer.figures is None:
        remedy = "pip install --force-reinstall h5py hdf5plugin"
        return Finding("HDF5", answer.reason, remedy)
    versions = "HDF5 {hdf5}, h5py {h5py}".format(**answer.figures)
    return Finding("HDF5", f"{versions}, bitshuffle with LZ4 written and read")


def snakemake(host: Host) -> Finding:
    """Which Snakemake there is, and which executors it has: Slurm asks for its own."""
    packages = {
        one.metadata["Name"].lower(): one.version for one in distributions(path=list(host.paths))
    }
    version = packages.get("snakemake")
    if version is None:
        return Finding("Snakemake", "none", "pip install snakemake")
    plugins = sorted(name.removeprefix(EXECUTOR) for name in packages if name.startswith(EXECUTOR))
    found = f"Snakemake {version} with the executors {', '.join(['local', *plugins])}"
    if host.which("sbatch") and "slurm" not in plugins:
        return Finding("Snakemake", f"{found}; Slurm needs its own", f"pip install {EXECUTOR}slurm")
    return Finding("Snakemake", found)


def containers(host: Host) -> Finding:
    """Which programs there are that run others in a container; none is needed by itself."""
    names = [name for name in RUNTIMES if host.which(name)]
    return Finding("containers", ", ".join(names) or "none")

"""Checks of folders: whether they take files, on which file system, and how much of them."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from spreadflow.doctor.host import Finding, Host, short
from spreadflow.folders import lowest_existing, own_cache, user_cache

ROOM_GB = 1.0
"""Free space below which a folder is full: a trial of some hundred shots takes as much."""

GB = 1e9
"""Bytes."""

NETWORKS = (
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "dvs",
    "fuse.sshfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "panfs",
    "smb3",
    "wekafs",
)
"""Types of file systems that are reached over a network."""

IN_MEMORY = ("tmpfs", "ramfs")
"""Types of file systems whose files take memory."""


def file_system(folder: Path, mounts: Path) -> str:
    """Return the type of the file system that a folder lies on, and what to know about it; "" where
    it is not known. mounts: the table of file systems.
    """
    path = lowest_existing(folder).resolve()
    kinds = {}
    with suppress(OSError):
        for line in mounts.read_text(errors="replace").splitlines():
            _device, point, kind = line.split()[:3]
            kinds[Path(point.replace("\\040", " "))] = kind  # of one point, the last one mounted
    above = [point for point in (path, *path.parents) if point in kinds]
    if not above:
        return ""
    kind = kinds[above[0]]
    if kind in NETWORKS:
        return f"{kind}, over the network"
    return f"{kind}, in memory" if kind in IN_MEMORY else kind


def takes_files(check: str, folder: Path, host: Host, remedy: str) -> Finding:
    """Write a file into a folder, and rename it. remedy: what to do where that fails.

    The folder is not made where it does not exist: the one above it then has to take files.
    """
    base = lowest_existing(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".spreadflow-", dir=base) as inside:
            first = Path(inside, "first")
            first.write_bytes(bytes(4096))
            os.replace(first, first.with_name("second"))
        free_gb = shutil.disk_usage(base).free / GB
    except OSError as error:
        return Finding(check, f"{short(folder)}: {error.strerror or error}", remedy)
    kind = file_system(base, host.mounts)
    found = ", ".join(
        filter(None, [f"{short(folder)}: takes files", kind, f"{free_gb:.1f} GB free"])
    )
    return Finding(check, found, "" if free_gb >= ROOM_GB else f"make room in {short(folder)}")


def results(host: Host) -> Finding:
    """Whether the folder of the trials takes files."""
    remedy = "set `results` in the configuration to a folder that takes files"
    return takes_files("results", host.results, host, remedy)


def locks(host: Host) -> Finding:
    """Whether files in the folder of the trials can be locked: nothing needs it, and h5py of others
    may (`HDF5_USE_FILE_LOCKING`).
    """
    try:
        with tempfile.TemporaryFile(dir=lowest_existing(host.results)) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding("locks", f"none ({error.strerror}): spreadflow needs none")
    return Finding("locks", "files can be locked: spreadflow does not")


def scratch(host: Host) -> Finding:
    """Whether the folder of temporary files takes files."""
    folder = Path(host.environment.get("TMPDIR", "/tmp"))
    return takes_files("scratch", folder, host, "export TMPDIR=FOLDER, one that takes files")


def cache(host: Host) -> Finding:
    """Whether the folder of the user's caches takes files: Snakemake does not start without it."""
    remedy = f"export XDG_CACHE_HOME={host.environment.get('TMPDIR', '/tmp')}/cache"
    return takes_files("cache", user_cache(host.environment), host, remedy)


def compiled(host: Host) -> Finding:
    """Whether the folder of compiled loops takes files: else each process compiles anew."""
    named = host.environment.get("NUMBA_CACHE_DIR")
    folder = Path(named) if named else own_cache(host.environment) / "numba"
    remedy = "unset NUMBA_CACHE_DIR" if named else "export NUMBA_CACHE_DIR=/tmp/numba"
    return takes_files("compiled loops", folder, host, remedy)


def compiled_by_jax(host: Host) -> Finding:
    """Whether the folder of what JAX compiled takes files."""
    named = host.environment.get("JAX_COMPILATION_CACHE_DIR")
    folder = Path(named) if named else own_cache(host.environment) / "jax"
    remedy = (
        "unset JAX_COMPILATION_CACHE_DIR" if named else "export JAX_COMPILATION_CACHE_DIR=/tmp/jax"
    )
    return takes_files("compiled by JAX", folder, host, remedy)

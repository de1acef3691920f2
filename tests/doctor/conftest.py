"""A machine of stand-ins: programs on PATH, folders, devices and file systems of a test's own."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spreadflow.doctor.host import Host


@pytest.fixture
def stand_in(tmp_path) -> Callable[[str, str], Path]:
    """`stand_in(name, script)` puts a program on the PATH of `host`."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)

    def write(name: str, script: str = "exit 0") -> Path:
        path = folder / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def host(tmp_path, stand_in) -> Host:
    """A machine without MPI, Slurm, GPU or containers; its file system is `ext4`."""
    (tmp_path / "dev").mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda1 / ext4 rw 0 0\n")
    environment = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    return Host(environment, tmp_path / "results", (), tmp_path / "dev", mounts)


@pytest.fixture
def real_host(host) -> Host:
    """The same with the programs and packages of this environment."""
    path = f"{host.environment['PATH']}:{Path(sys.prefix, 'bin')}:{os.environ['PATH']}"
    environment = os.environ | host.environment | {"PATH": path}
    return host._replace(environment=environment, paths=tuple(sys.path))

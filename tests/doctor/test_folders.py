"""Folders that take no files, are full, or lie on a network."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from spreadflow.doctor import folders

SEALED = Path("/sys/kernel")
"""A folder in which nobody makes files, not even root."""


def test_a_folder_takes_files_although_it_is_not_there_yet(host):
    finding = folders.results(host)
    assert finding.is_good
    assert "takes files, ext4, " in finding.found
    assert not host.results.exists()
    assert list(host.results.parent.glob(".spreadflow-*")) == []


CACHES = {
    folders.cache: (".cache", "export XDG_CACHE_HOME="),
    folders.compiled: (".cache", "export NUMBA_CACHE_DIR=/tmp/numba"),
    folders.compiled_by_jax: (".cache", "export JAX_COMPILATION_CACHE_DIR=/tmp/jax"),
}


def test_a_folder_that_takes_no_files_is_to_be_mended(host):
    host.results.write_text("a file in the place of the folder")
    finding = folders.results(host)
    assert "Not a directory" in finding.found
    assert "`results`" in finding.remedy


@pytest.mark.parametrize("check", CACHES, ids=lambda check: check.__name__)
def test_a_cache_that_takes_no_files_is_to_be_mended(host, check):
    name, remedy = CACHES[check]
    assert check(host).is_good
    (host.results.parent / name).write_text("a file in the place of the folder")
    assert check(host).remedy.startswith(remedy)


@pytest.mark.skipif(not SEALED.is_dir(), reason=f"there is no {SEALED}")
def test_a_folder_that_refuses_files_is_to_be_mended(host):
    finding = folders.results(host._replace(results=SEALED / "results"))
    assert finding.found.startswith(f"{SEALED}/results: ")
    assert not finding.is_good


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into any folder")
def test_a_read_only_folder_is_to_be_mended(host):
    host.results.mkdir(mode=0o555)
    assert "Permission denied" in folders.results(host).found


def test_a_named_cache_is_looked_at(host, tmp_path):
    named = host.environment | {"NUMBA_CACHE_DIR": str(tmp_path / "there" / "loops")}
    (tmp_path / "there").write_text("a file in the place of the folder")
    finding = folders.compiled(host._replace(environment=named))
    assert finding.remedy == "unset NUMBA_CACHE_DIR"


def test_a_scratch_that_is_not_there_is_to_be_mended(host, tmp_path):
    (tmp_path / "full").write_text("")
    named = host.environment | {"TMPDIR": str(tmp_path / "full")}
    assert "TMPDIR" in folders.scratch(host._replace(environment=named)).remedy


def test_a_full_folder_is_to_be_mended(host, monkeypatch):
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda _path: SimpleNamespace(free=5e8))
    finding = folders.results(host)
    assert finding.found.endswith("0.5 GB free")
    assert finding.remedy.startswith("make room in ")


@pytest.mark.parametrize(
    ("kind", "words"),
    [("nfs4", "nfs4, over the network"), ("tmpfs", "tmpfs, in memory"), ("xfs", "xfs")],
)
def test_the_file_system_is_that_of_the_deepest_mount(host, kind, words):
    with host.mounts.open("a") as file:
        file.write(f"server:/x {host.results.parent.parent} {kind} rw 0 0\n")
        file.write(f"server:/y {host.results.parent}2 lustre rw 0 0\n")
    assert folders.file_system(host.results, host.mounts) == words


def test_a_machine_without_a_table_of_file_systems_is_none_the_worse(host):
    host.mounts.unlink()
    finding = folders.results(host)
    assert finding.is_good
    assert "ext4" not in finding.found


def test_a_file_system_without_locks_is_good_enough(host, monkeypatch):
    assert folders.locks(host).found.startswith("files can be locked")

    def refuse(_file, _operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(folders.fcntl, "flock", refuse)
    finding = folders.locks(host)
    assert finding.found == "none (No locks available): spreadflow needs none"
    assert finding.is_good

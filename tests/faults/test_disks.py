"""Disks that are full, limited or not to be written to: one message, and nothing is lost."""

from pathlib import Path

import gemmi
import numpy as np
import pytest

from same_product import assert_same
from spreadflow.errors import FileError
from spreadflow.io import mtz, store
from spreadflow.io.new_hdf5 import new_hdf5
from spreadflow.products import Index

FULL = Path("/dev/full")


LIMITED = """
import resource, sys
from spreadflow import cli
from spreadflow.physics import compiling  # has chosen where compiled loops are kept

resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command line, where no file may be longer."""


@pytest.mark.skipif(not FULL.exists(), reason=f"no {FULL} here")
@pytest.mark.parametrize("storage", [{}, {"chunks": (1000,), "compression": "gzip"}])
def test_hdf5_on_a_full_disk_is_an_error_and_no_crash(storage):
    with pytest.raises(OSError, match="No space left"), new_hdf5(FULL) as f:
        for number in range(20):
            f.create_dataset(f"{number}/data", data=np.arange(20_000), **storage)


@pytest.mark.skipif(not FULL.exists(), reason=f"no {FULL} here")
def test_a_file_that_cannot_be_written_is_named(tmp_path):
    out = tmp_path / "merge.mtz"
    message = r"merge\.mtz: expected a place to write to"
    with pytest.raises(FileError, match=message) as error, store.replacing(out) as temporary:
        temporary.symlink_to(FULL)
        temporary.write_text("content")
    assert "No space left" in str(error.value)
    assert not list(tmp_path.iterdir())

    (tmp_path / "folder").write_text("a file where a folder should be")
    with pytest.raises(FileError, match="a place to write to"):
        mtz.save(gemmi.Mtz(with_base=True), tmp_path / "folder" / "merge.mtz")


@pytest.mark.chain
@pytest.mark.long
def test_a_stage_that_meets_a_full_disk_goes_on_later(index, ended, tmp_path):
    whole = tmp_path / "whole.h5"
    ended(index(whole), 0)
    out = tmp_path / "limited" / "index.h5"
    command = index(out)
    python, _, _, *words = command
    stderr = ended([python, "-c", LIMITED, *words], FileError.exit_code)
    assert stderr.count("expected a place to write to; found [Errno 27] File too large") == 1
    assert "Traceback" not in stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert not out.exists()

    ended(command, 0)
    assert_same(out, whole, Index)

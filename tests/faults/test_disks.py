"""Disks that are full, limited or not to be written to: one message, and nothing is lost."""

import os
import subprocess
from pathlib import Path

import gemmi
import numpy as np
import pytest
from matplotlib.figure import Figure

from same_product import assert_same
from spreadflow.errors import FileError
from spreadflow.io import mtz, store, tdata
from spreadflow.io.colours import write_array
from spreadflow.io.images import write_mask
from spreadflow.io.lattices import reflections
from spreadflow.io.lattices.dials_writer import write_expt
from spreadflow.io.new_hdf5 import new_hdf5
from spreadflow.models import Detector
from spreadflow.products import Index
from spreadflow.report import style, summary
from spreadflow.stages import deposition

FULL = Path("/dev/full")


LIMITED = """
import resource, sys
from spreadflow import cli
from spreadflow.physics import compiling  # has chosen where compiled loops are kept

resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))
sys.exit(cli.main(sys.argv[1:]))
"""
"""The command line, where no file may be longer."""


def merged() -> gemmi.Mtz:
    """A table of one reflection."""
    table = gemmi.Mtz(with_base=True)
    table.spacegroup = gemmi.SpaceGroup("P 1")
    table.set_cell_for_all(gemmi.UnitCell(30, 30, 30, 90, 90, 90))
    table.add_dataset("merged")
    table.add_column("IMEAN", "J")
    table.set_data(np.array([[1, 2, 3, 4.0]], np.float32))
    return table


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
        mtz.save(merged(), tmp_path / "folder" / "merge.mtz")


def _mmcif(path: Path) -> None:
    mtz.save(merged(), path.with_name("stage2.mtz"))
    deposition.export(path.with_name("stage2.h5"), path.with_suffix(""))


def _figures(path: Path) -> None:
    summary.write({"n": 1}, Figure(), path)


def _expt(path: Path) -> None:
    origin, fast, slow = (np.array([axis]) for axis in ((-1, 1, -9.0), (1, 0, 0.0), (0, -1, 0.0)))
    write_expt(path, Detector(origin, fast, slow, np.float64(1.0), (2, 2)), wavelength=1.0)


WRITERS = {
    "a.mtz": lambda path: mtz.save(merged(), path),
    "a.cif": _mmcif,
    "a.json": _figures,
    "a.png": lambda path: style.save(Figure(), path),
    "a.expt": _expt,
    "a.refl": lambda path: reflections.write(path, 1, {"a": "int"}, [{"a": np.ones(1)}], {}),
    "a.tdata": lambda path: tdata.write(path, np.array([[30, 30, 30, 90, 90, 90.0]]), "P 1"),
    "a.csv": lambda path: store.write_csv(path, {"a": [1]}),
    "a.npy": lambda path: write_array(path, np.ones(1)),
    "a.txt": lambda path: store.write_text(path, "text"),
    "mask.h5": lambda path: write_mask(path, np.zeros((1, 2, 2)), ["good"]),
}
"""Name of a file → what writes it."""


@pytest.mark.stage
@pytest.mark.skipif(not FULL.exists(), reason=f"no {FULL} here")
@pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS)
def test_no_writer_is_silent_on_a_full_disk(tmp_path, monkeypatch, name, write):
    monkeypatch.setattr(store, "kind", lambda path: "stage2")
    path = tmp_path / name
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    temporary.symlink_to(FULL)
    with pytest.raises(FileError, match=f"{name}: expected a place to write to; .*No space left"):
        write(path)
    assert not path.exists()

    write(path)
    assert path.stat().st_size > 0


def on_read_only(folder: Path, command: list[str]) -> list[str]:
    """Return a command that sees a folder as it is on a disk that nobody can write to. The test is
    skipped where nothing can be mounted.
    """
    bind = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    try:
        tried = subprocess.run([*mount, bind, folder], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    if tried.returncode:
        pytest.skip(f"nothing can be mounted: {tried.stderr}")
    return [*mount, f'{bind} && exec "$@"', str(folder), *command]


@pytest.mark.chain
def test_a_disk_that_is_read_only_is_one_message(index, ended, tmp_path):
    for folder in ("there", "new"):
        out = tmp_path / folder / "index.h5"
        (tmp_path / "there" / "index.parts").mkdir(parents=True, exist_ok=True)
        stderr = ended(on_read_only(tmp_path, index(out)), FileError.exit_code)
        assert stderr.count("expected a place to write to; found [Errno 30]") == 1
        assert "Traceback" not in stderr


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

"""Files that image files lead to are part of what a manifest describes."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import nexus_dialects as dialects
import nexus_file
from spreadflow.errors import FileError, Outcome
from spreadflow.io import images
from spreadflow.io.images.data_files import data_files


def names_of(path: Path) -> list[str]:
    """The names of the files that a file leads to."""
    return [file.name for file in data_files(path)]


@pytest.mark.parametrize(
    ("dialect", "names"),
    [
        (dialects.dectris_master, ["a_data_000001.h5", "a_data_000002.h5"]),
        (dialects.external_frames, ["a_frames.h5"]),
        (dialects.virtual_frames, ["a_part_0.h5", "a_part_1.h5"]),
        (dialects.virtual_short, ["a_part_0.h5"]),
        (dialects.one_frame, []),
    ],
)
def test_links_and_sources_lead_to_files(tmp_path, dialect, names):
    """Those that are there; one that was never written is not."""
    nexus_file.write(tmp_path / "a.nxs", dialect)
    assert names_of(tmp_path / "a.nxs") == names


def test_files_that_lead_on_and_back_are_found_once(tmp_path):
    """A link, to a file that grows from blocks and links back; bytes outside of HDF5."""
    with h5py.File(tmp_path / "master.h5", "w") as f:
        f["frames"] = h5py.ExternalLink("middle.h5", "/frames")
        f["again"] = h5py.ExternalLink("middle.h5", "/other")
        f["gone"] = h5py.ExternalLink("gone.h5", "/frames")
        f["text"] = h5py.ExternalLink("notes.txt", "/frames")
    with h5py.File(tmp_path / "middle.h5", "w") as f:
        layout = h5py.VirtualLayout((4, 3), "i4", maxshape=(None, 3))
        layout[:2] = h5py.VirtualSource("block_0.h5", "frames", (2, 3))
        layout[2:] = h5py.VirtualSource(".", "deep/own", (2, 3))
        f["deep/own"] = np.ones((2, 3), np.int32)
        f.create_virtual_dataset("frames", layout)
        f["back"] = h5py.ExternalLink("master.h5", "/frames")
        f["circle"] = f["/"]
        outside = [(str(tmp_path / "raw.bin"), 0, 24)]
        f.create_dataset("raw", (2, 3), "i4", external=outside)[:] = 7
    with h5py.File(tmp_path / "block_0.h5", "w") as f:
        f["frames"] = np.ones((2, 3), np.int32)
    (tmp_path / "notes.txt").write_text("no HDF5")
    found = names_of(tmp_path / "master.h5")
    assert found == ["block_0.h5", "middle.h5", "notes.txt", "raw.bin"]
    assert names_of(tmp_path / "notes.txt") == []


@pytest.fixture
def run(tmp_path) -> Path:
    """The manifest of a master file with two data files."""
    nexus_file.write(tmp_path / "a.nxs", dialects.dectris_master)
    images.write_manifest(tmp_path / "m.json", "r", [tmp_path / "a.nxs"])
    return tmp_path / "m.json"


def change(path: Path, frames: np.ndarray) -> None:
    """Put other pixels in a data file of a master."""
    with h5py.File(path, "r+") as f:
        f["entry/data/data"][...] = frames


def test_a_manifest_describes_data_files(run, tmp_path):
    (entry,) = images.read_manifest(run).files
    described = [(file.path, file.size) for file in entry.data_files]
    names = ["a_data_000001.h5", "a_data_000002.h5"]
    assert described == [(name, (tmp_path / name).stat().st_size) for name in names]
    images.check_manifest(run)

    change(tmp_path / "a_data_000002.h5", nexus_file.images()[0])
    with pytest.raises(FileError, match=r"a_data_000002\.h5 has another checksum"):
        images.check_manifest(run)
    (tmp_path / "a_data_000001.h5").unlink()
    with pytest.raises(FileError, match=r"a_data_000001\.h5 is missing; .*a_data_000002"):
        images.check_manifest(run)


def test_a_changed_data_file_makes_another_run(run, tmp_path, tmp_path_factory):
    """As a changed master does, once the manifest is written again; where it lies does not."""
    identity = images.Source(run).identity
    moved = tmp_path_factory.mktemp("moved") / "run"
    shutil.copytree(tmp_path, moved)
    assert images.Source(moved / "m.json").identity == identity

    change(tmp_path / "a_data_000002.h5", nexus_file.images()[0])
    images.write_manifest(run, "r", [tmp_path / "a.nxs"])
    assert images.Source(run).identity != identity


def test_a_data_file_of_another_size_costs_the_shots_of_its_master(run, tmp_path):
    with open(tmp_path / "a_data_000002.h5", "ab") as file:
        file.write(b"\0")
    source = images.Source(run, geometry=nexus_file.DETECTOR)
    assert source.read(0) == Outcome.UNREADABLE
    assert "a_data_000002.h5" in source.problems[0] and "bytes" in source.problems[0]


def test_a_run_without_data_files_is_the_run_that_it_was(tmp_path):
    """Manifests of before state none: what was made from them is not made again."""
    nexus_file.write(tmp_path / "a.nxs")
    images.write_manifest(tmp_path / "m.json", "r", [tmp_path / "a.nxs"])
    identity = images.Source(tmp_path / "m.json").identity
    text = (tmp_path / "m.json").read_text()
    without = text.replace(',\n   "data_files": []', "")
    assert without != text
    (tmp_path / "m.json").write_text(without)
    assert images.Source(tmp_path / "m.json").identity == identity


def test_sources_that_were_moved_with_their_file_are_read(tmp_path):
    """By absolute names, which HDF5 looks for beside the file too."""
    here = tmp_path / "here"
    here.mkdir()
    frames = nexus_file.images()[:, 0]

    def edit(f: h5py.File) -> None:
        layout = h5py.VirtualLayout(frames.shape, "i4")
        for number, frame in enumerate(frames):
            with h5py.File(here / f"part_{number}.h5", "w") as other:
                other["data"] = frame
            path = str(here / f"part_{number}.h5")
            layout[number] = h5py.VirtualSource(path, "data", nexus_file.SHAPE)
        del f[nexus_file.DATA]
        f.create_virtual_dataset(nexus_file.DATA, layout, fillvalue=-1)

    expected = nexus_file.write(here / "a.nxs", edit)
    here.rename(tmp_path / "there")
    assert names_of(tmp_path / "there" / "a.nxs") == ["part_0.h5", "part_1.h5"]
    content = nexus_file.read(tmp_path / "there" / "a.nxs")
    assert content.remarks == []
    assert np.array_equal(content.photons, expected.photons)

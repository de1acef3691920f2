"""NXmx as others write it is read right, pixels, geometry, wavelengths and masks, or refused by
name.
"""

import h5py
import numpy as np
import pytest

import nexus_dialects as dialects
import nexus_file
import nexus_refused
from spreadflow.errors import FileError
from spreadflow.io import images
from spreadflow.io.images.nexus import NexusFile


@pytest.mark.parametrize("name", dialects.DIALECTS)
def test_a_dialect_is_read_right(tmp_path, name):
    path = tmp_path / "a.nxs"
    expected = nexus_file.write(path, dialects.DIALECTS[name])
    content = nexus_file.read(path)
    assert np.array_equal(content.good, expected.good)
    assert np.allclose(content.photons[expected.good], expected.photons[expected.good], rtol=1e-6)
    for field in ("origin_mm", "fast", "slow", "pixel_mm"):
        stated = getattr(expected.detector, field)
        assert np.allclose(getattr(content.detector, field), stated, atol=1e-9), field
    assert content.detector.shape == expected.detector.shape
    assert np.allclose(content.energies_ev, expected.energies_ev, rtol=1e-9)
    assert np.allclose(content.spectra, expected.spectra, rtol=1e-9)
    remarks = [remark for remark in content.remarks if "is left out" not in remark]
    assert len(remarks) == len(expected.remarks)
    for remark, beginning in zip(remarks, expected.remarks, strict=True):
        assert remark.startswith(beginning)


@pytest.mark.parametrize("name", nexus_refused.REFUSED)
def test_what_can_not_be_understood_is_refused_by_name(tmp_path, name):
    edit, words = nexus_refused.REFUSED[name]
    path = tmp_path / "a.nxs"
    nexus_file.write(path, edit)
    with pytest.raises(FileError, match=words) as caught:
        NexusFile(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", dialects.LOST)
def test_frames_without_a_source_are_lost_by_name(tmp_path, name):
    edit, words = dialects.LOST[name]
    nexus_file.write(tmp_path / "a.nxs", edit)
    file = NexusFile(tmp_path / "a.nxs")
    assert np.array_equal(file.frame(0), nexus_file.images()[0])
    with pytest.raises(OSError, match=words):
        file.frame(1)
    assert any(words in remark for remark in file.remarks)


@pytest.mark.parametrize("name", nexus_refused.BAD_SPECTRA)
def test_a_spectrum_that_can_not_be_read_is_named(tmp_path, name):
    edit, words = nexus_refused.BAD_SPECTRA[name]
    nexus_file.write(tmp_path / "a.nxs", edit)
    file = NexusFile(tmp_path / "a.nxs")
    with pytest.raises(FileError, match=words):
        file.spectrum(0)
    assert any("no wavelength can be read" in remark for remark in file.remarks)


def test_a_data_file_that_was_never_written_is_said(tmp_path):
    nexus_file.write(tmp_path / "a.nxs", dialects.dectris_master)
    (remark,) = nexus_file.read(tmp_path / "a.nxs").remarks
    assert remark == "data_000003 is left out: no file a_data_000003.h5"


def test_names_that_are_no_text_reach_the_manifest(tmp_path):
    """As a damaged link holds them."""
    path = tmp_path / "a.nxs"
    nexus_file.write(path, dialects.dectris_master)
    with h5py.File(path, "r+") as f:
        del f["entry/data/data_000003"]
        f["entry/data/data_000003"] = h5py.ExternalLink("part_\udcb4.h5", "/entry/data/data")
    manifest = images.write_manifest(tmp_path / "m.json", "r", [path])
    assert manifest.remarks == [r"data_000003 is left out: no file part_\udcb4.h5"]
    assert images.read_manifest(tmp_path / "m.json") == manifest


@pytest.mark.parametrize(
    ("stokes", "polarization"),
    [
        ([1.0, -1.0, 0.0, 0.0], -1.0),
        ([2.0, 1.9, 0.0, 0.0], 0.95),
        ([1.0, 0.0, 0.0, 1.0], 0.0),
        ([[1.0, 0.9, 0.0, 0.0], [1.0, 0.9, 0.0, 0.1]], 0.9),
        (None, None),
    ],
)
def test_the_polarization_is_that_of_the_stokes_vector(tmp_path, stokes, polarization):
    assert _polarization(tmp_path / "a.nxs", stokes) == (polarization, [])


@pytest.mark.parametrize(
    ("stokes", "polarization", "remark"),
    [
        ([0.0, 0.0, 0.0, 0.0], None, "makes no sense"),
        ([1.0, 1.5, 0.0, 0.0], None, "makes no sense"),
        ([1.0, np.nan, 0.0, 0.0], None, "makes no sense"),
        ([1.0, 1.0], None, "makes no sense"),
        ([1.0, 0.5, 0.5, 0.0], 0.5, "across the laboratory axes"),
        ([[1.0, 1.0, 0, 0], [1.0, 0.0, 0, 0]], 0.5, "other in other shots"),
    ],
)
def test_a_polarization_that_is_not_along_the_axes_is_said(tmp_path, stokes, polarization, remark):
    read, remarks = _polarization(tmp_path / "a.nxs", stokes)
    assert read == polarization
    assert remark in remarks[0]


def _polarization(path, stokes) -> tuple[float | None, list[str]]:
    """Return the polarization of a file with a Stokes vector, and what is said of it."""

    def edit(f: h5py.File) -> None:
        name = f"{nexus_file.BEAM}/incident_polarization_stokes"
        if stokes is None:
            del f[name]
        else:
            nexus_file.put(f, name, np.array(stokes))

    nexus_file.write(path, edit)
    file = NexusFile(path)
    return file.polarization, file.remarks

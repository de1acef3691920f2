"""A bank of recorded spectra: which pulse a shot has, how bright it is, and what is left out."""

import h5py
import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io import images, nexus_writer
from spreadflow.io.spectra import Bank
from spreadflow.models import Detector
from spreadflow.units import wavelength

DETECTOR = Detector(np.array([[-1.0, 1.0, -90.0]]), np.eye(3)[:1], -np.eye(3)[1:2], 0.5, (4, 4))
FINE = 7100.25 + 0.5 * np.arange(40)
COARSE = 7100.5 + np.arange(20)


def recorded(path, photons: np.ndarray):
    n = len(photons)
    frames = np.zeros((n, 1, 4, 4), np.int32)
    ids = np.arange(n, dtype=np.uint64)
    stills = nexus_writer.Stills(frames, ids, FINE, photons)
    nexus_writer.write(path, stills, nexus_writer.Instrument(DETECTOR, saturation_adu=9))
    return path


@pytest.fixture
def photons() -> np.ndarray:
    return np.random.default_rng(1).exponential(size=(5, 40))


def joined(photons: np.ndarray) -> np.ndarray:
    return photons.reshape(*photons.shape[:-1], 20, 2).sum(-1)


def test_shots_take_spectra_in_order_and_again_from_the_first(tmp_path, photons):
    bank = Bank(recorded(tmp_path / "a.nxs", photons), COARSE, None)
    assert len(bank) == 5
    assert bank.n_bad == 0
    assert bank.lost == pytest.approx(0.0, abs=1e-9)
    for shot in (3, 0, 12, 4):
        np.testing.assert_allclose(bank.pulse(shot).photons, joined(photons[shot % 5]), rtol=1e-6)
        np.testing.assert_array_equal(bank.pulse(shot).energies_ev, COARSE)


def test_the_mean_over_the_bank_is_as_asked_and_the_fluctuation_stays(tmp_path, photons):
    bank = Bank(recorded(tmp_path / "a.nxs", photons), COARSE[:10], 1e12)
    totals = np.array([bank.pulse(i).photons.sum() for i in range(5)])
    inside = photons[:, :20].sum(axis=1)
    share_inside = inside.sum() / photons.sum()

    assert totals.mean() == pytest.approx(1e12, rel=1e-12)
    np.testing.assert_allclose(totals / totals.mean(), inside / inside.mean(), rtol=1e-6)
    assert bank.lost == pytest.approx(1 - share_inside, rel=1e-6)


def test_the_files_of_a_manifest_follow_each_other(tmp_path, photons):
    first = recorded(tmp_path / "b.nxs", photons[:2])
    second = recorded(tmp_path / "a.nxs", photons[2:])
    manifest = tmp_path / "manifest.json"
    images.write_manifest(manifest, "r", [first, second])
    bank = Bank(manifest, COARSE, None)
    for shot in range(5):
        np.testing.assert_allclose(bank.pulse(shot).photons, joined(photons[shot]), rtol=1e-6)


def test_spectra_that_make_no_sense_are_left_out(tmp_path, photons):
    photons[1, 3] = np.nan
    photons[2] = 0.0
    photons[3, :20] = -1.0
    bank = Bank(recorded(tmp_path / "a.nxs", photons), COARSE[:10], None)
    assert len(bank) == 2
    assert bank.n_bad == 3
    np.testing.assert_allclose(bank.pulse(1).photons, joined(photons[4])[:10], rtol=1e-6)


def test_channels_of_each_shot_on_their_own(tmp_path, photons):
    path = recorded(tmp_path / "a.nxs", photons)
    with h5py.File(path, "r+") as f:
        beam = f["entry/instrument/beam"]
        name = "incident_wavelength_1Dspectrum"
        energies = FINE + np.arange(5.0)[:, None]
        energies[2, 7] = energies[2, 8]
        del beam[name]
        beam[name] = wavelength(energies)
        beam[name].attrs["units"] = "angstrom"
    bank = Bank(path, 7090.5 + np.arange(50), None)

    assert bank.n_bad == 1
    for shot, row in enumerate((0, 1, 3, 4)):
        np.testing.assert_allclose(
            bank.pulse(shot).photons[10 + row : 30 + row], joined(photons[row]), rtol=1e-6
        )


def test_no_spectrum_of_use_or_no_file(tmp_path, photons):
    path = recorded(tmp_path / "a.nxs", photons)
    with pytest.raises(FileError, match=r"photons within 9000-9009 eV; found 5 without"):
        Bank(path, 9000.0 + np.arange(10), None)
    with pytest.raises(FileError, match=r"nothing\.nxs"):
        Bank(tmp_path / "nothing.nxs", COARSE, None)

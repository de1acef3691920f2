"""Spectra of spec files: as diffBragg writes them, and files that are none."""

import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io import supplied_spectra
from spreadflow.units import wavelength


def test_a_file_as_diffbragg_writes_it(tmp_path):
    """Rising wavelengths and counts with the noise of a spectrometer become rising energies and
    shares of the pulse.
    """
    energies_ev = np.array([7110.0, 7112.5, 7120.0])
    weights = np.array([30.0, -2.0, 10.0])
    columns = np.stack([wavelength(energies_ev), weights], axis=1)[::-1]
    path = tmp_path / "pulse.lam"
    np.savetxt(path, columns, delimiter=",", header="wavelengths, weights")
    assert path.read_text().startswith("# wavelengths, weights\n1.74")

    spectrum = supplied_spectra.read_lam(path)
    np.testing.assert_allclose(spectrum.energies_ev, energies_ev, rtol=1e-12)
    np.testing.assert_allclose(spectrum.photons, [0.75, 0.0, 0.25])


def test_one_wavelength_is_a_spectrum(tmp_path):
    (tmp_path / "pulse.lam").write_text("# wavelengths, weights\n1.7,3\n")
    spectrum = supplied_spectra.read_lam(tmp_path / "pulse.lam")
    assert spectrum.mean_energy_ev == pytest.approx(12398.4198 / 1.7)
    assert spectrum.photons.tolist() == [1.0]


REFUSED = {
    "": "sum 0",
    "# wavelengths, weights\n": "0 rows",
    "# w\n1.7,1\n1.7,2\n": "2 rows, 1 wavelengths",
    "# w\n1.7,0\n1.8,-1\n": "sum 0",
    "# w\n1.7,1\n\n1.8 2\n": "line 4: expected two columns",
    "# w\n1.7,1,3\n": "line 2: .* found 1.7,1,3",
    "# w\n0,1\n": "line 2",
    "# w\n1.7,nan\n": "line 2",
    "wavelengths, weights\n1.7,1\n": "line 1",
}


@pytest.mark.parametrize(("text", "words"), REFUSED.items())
def test_what_is_no_spectrum_is_refused_with_its_line(tmp_path, text, words):
    (tmp_path / "pulse.lam").write_text(text)
    with pytest.raises(FileError, match=words):
        supplied_spectra.read_lam(tmp_path / "pulse.lam")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileError, match=r"none.lam: expected a spectrum"):
        supplied_spectra.read_lam(tmp_path / "none.lam")


def test_spectra_are_kept_by_shot(tmp_path):
    files = {}
    for shot_id, rows in ((2**63 + 5, "1.70,1\n1.75,3\n"), (7, "1.72,1\n")):
        files[shot_id] = tmp_path / f"{shot_id}.lam"
        files[shot_id].write_text(rows)
    supplied_spectra.write(tmp_path / "reindex.h5", files)

    spectra = supplied_spectra.SuppliedSpectra(tmp_path / "reindex.h5")
    assert spectra.most_channels == 2
    np.testing.assert_allclose(spectra.spectrum(2**63 + 5, 8.0).photons, [6.0, 2.0])
    np.testing.assert_allclose(wavelength(spectra.spectrum(7, 2.0).energies_ev), [1.72])
    assert spectra.spectrum(8, 1.0) is None

    supplied_spectra.SuppliedSpectra(tmp_path / "reindex.h5", spectra.identity)
    with pytest.raises(FileError, match=r"reindex.spectra.h5: expected the spectra"):
        supplied_spectra.SuppliedSpectra(tmp_path / "reindex.h5", "0" * 16)
    (tmp_path / "reindex.spectra.h5").unlink()
    with pytest.raises(FileError, match=r"reindex.spectra.h5"):
        supplied_spectra.SuppliedSpectra(tmp_path / "reindex.h5", spectra.identity)

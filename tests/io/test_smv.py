"""SMV stills: pixels, geometry and settings as they should be; what is damaged or not understood is
one clear error.
"""

import numpy as np
import pytest

from image_files import SMV, image, smv
from spreadflow import cli
from spreadflow.errors import FileError
from spreadflow.io import images
from spreadflow.io.images.smv import BEAM_REMARK, open_smv
from spreadflow.units import energy

PIXELS = image(4, 6, dtype="uint16")


@pytest.fixture
def still(tmp_path):
    """A function that writes an SMV file, settings of its header replaced or, as None, left out,
    and opens it.
    """

    def opened(pixels: np.ndarray = PIXELS, **settings: str | None):
        header = {key: value for key, value in (SMV | settings).items() if value is not None}
        return open_smv(smv(tmp_path / "x.img", pixels, header))

    return opened


@pytest.mark.parametrize("order", ["little_endian", "big_endian"])
def test_pixels_are_read_in_the_order_that_is_stated(still, order):
    frame = still(BYTE_ORDER=order).frame(0)
    assert frame.dtype == np.uint16
    assert np.array_equal(frame, PIXELS[None])


def test_the_beam_of_adsc_is_stated_along_slow_and_fast(still):
    detector = still().detector
    assert np.allclose(detector.origin_mm, [[-0.5, 0.2, -150]], rtol=0, atol=1e-12)
    assert detector.fast.tolist() == [[1, 0, 0]]
    assert detector.slow.tolist() == [[0, -1, 0]]
    assert detector.pixel_mm == 0.1024
    assert detector.shape == (4, 6)


def test_the_origin_of_xds_is_preferred(still):
    """Its pixels are counted from 1 at the first one's centre."""
    detector = still(XDS_ORGX="3.5", XDS_ORGY="2.0").detector
    assert np.allclose(detector.origin_mm, [[-3 * 0.1024, 1.5 * 0.1024, -150]], rtol=0, atol=1e-12)


def test_the_manifest_command_tells_which_beam_centre_was_assumed(tmp_path, capsys):
    """Once for all files; nothing is assumed of the one of XDS."""
    remarks = []
    for name, settings in (("adsc", {}), ("xds", {"XDS_ORGX": "3.5", "XDS_ORGY": "2.0"})):
        for k in range(2):
            smv(tmp_path / f"{name}{k}.img", PIXELS, SMV | settings)
        out = tmp_path / f"{name}.json"
        assert cli.main(["manifest", f"{tmp_path}/{name}*.img", "--out", str(out)]) == 0
        remarks.append(capsys.readouterr().err.splitlines())
        assert images.read_manifest(out).polarization == 1.0
    assert remarks == [[f"{tmp_path / 'adsc.json'}: {BEAM_REMARK}"], []]


def test_settings_are_as_stated(still):
    plain = still()
    assert plain.pedestal == (0, 1)
    assert plain.trusted_range == (-np.inf, 65534)
    assert plain.spectrum(0).energies_ev == energy(1.116)
    assert plain.mask.all()
    stated = still(IMAGE_PEDESTAL="40", GAIN="1.9", CCD_IMAGE_SATURATION="60000")
    assert stated.pedestal == (40, 1.9)
    assert stated.trusted_range == (1, 60000)


def test_without_a_wavelength_there_is_no_spectrum(still):
    with pytest.raises(FileError, match="a wavelength in the header"):
        still(WAVELENGTH=None).spectrum(0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SIZE1", "7", "a complete SMV file; found Size spec"),
        ("SIZE1", None, "a complete SMV file"),
        ("SIZE1", "-6", "x.img"),
        ("DISTANCE", "-150", "DISTANCE: expected a positive number"),
        ("DISTANCE", None, "DISTANCE: expected a finite number"),
        ("PIXEL_SIZE", "nan", "PIXEL_SIZE: expected a finite number; found 'nan'"),
        ("BEAM_CENTER_X", None, "BEAM_CENTER_X: expected a finite number; found none"),
        ("TWOTHETA", "15", "TWOTHETA 0; found 15"),
        ("GAIN", "0", "GAIN: expected a positive number"),
    ],
)
def test_a_header_that_makes_no_sense_is_one_clear_error(still, key, value, message):
    with pytest.raises(FileError, match=message):
        still(**{key: value})


def test_files_of_a_run_are_its_shots(tmp_path):
    paths = [
        smv(tmp_path / f"{k}.img", image(4, 6, dtype="uint16", seed=k), SMV | {"GAIN": "2"})
        for k in range(2)
    ]
    assert not images.is_manifest(paths[0])
    images.write_manifest(tmp_path / "manifest.json", "r", paths)
    assert images.is_manifest(tmp_path / "manifest.json")
    source = images.Source(tmp_path / "manifest.json")
    assert np.array_equal(source.read(1).image[0] * 2, image(4, 6, seed=1))

"""Photons from ADU: maps of gains and pedestals, checked where they are read, and the common mode,
which is taken out where there are dark pixels and nowhere else.
"""

import h5py
import numpy as np
import pytest

import nexus_file
from spreadflow.cli.main import main
from spreadflow.errors import FileError
from spreadflow.io import images
from spreadflow.io.images import common_mode
from spreadflow.io.images.conversion import Conversion, PixelMaps, is_constant, read_maps
from spreadflow.io.images.kept import KeptArrays
from spreadflow.models import Detector

TWO = Detector(
    origin_mm=np.array([[-5.0, 5, -90], [1.0, 5, -90]]),
    fast=np.tile([1.0, 0, 0], (2, 1)),
    slow=np.tile([0.0, -1, 0], (2, 1)),
    pixel_mm=0.1,
    shape=(4, 6),
)
SHAPE = (2, 4, 6)


def write_maps(path, **maps):
    """Write an HDF5 file of maps."""
    with h5py.File(path, "w") as f:
        for name, values in maps.items():
            f[name] = values
    return path


def test_photons_are_what_was_recorded(tmp_path):
    """The integers that gains and pedestals of each pixel were applied to, and back."""
    rng = np.random.default_rng(1)
    photons = rng.integers(0, 50, SHAPE)
    gain = rng.uniform(0.5, 3.0, SHAPE)
    pedestal = rng.normal(0, 5, SHAPE)
    path = write_maps(tmp_path / "maps.h5", gain=gain, pedestal=pedestal)
    conversion = Conversion(100.0, 9.0, read_maps(path, TWO))
    adu = photons * 9.0 * gain + pedestal + 100.0
    every = np.ones(SHAPE, bool)
    np.testing.assert_allclose(conversion.photons(adu, every).image, photons, atol=1e-4)
    np.testing.assert_allclose(conversion.adu(1.0), 9.0 * gain + pedestal + 100.0, rtol=1e-6)
    fewest = ((1e4 - pedestal - 100.0) / (9.0 * gain)).min()
    assert conversion.fewest_photons(1e4) == pytest.approx(fewest)
    np.testing.assert_allclose(conversion.relative_gain, gain / np.median(gain), rtol=1e-6)


def test_pixels_whose_maps_make_no_sense_are_not_used(tmp_path):
    gain = np.ones(SHAPE)
    gain[0, 0, :3] = (0.0, np.nan, -1.0)
    pedestal = np.zeros(SHAPE)
    pedestal[1, 3, 5] = np.inf
    maps = read_maps(write_maps(tmp_path / "maps.h5", gain=gain, pedestal=pedestal), TWO)
    assert np.argwhere(~maps.good).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 3, 5]]
    photons = Conversion(0.0, 1.0, maps).photons(np.full(SHAPE, 7.0), maps.good).image
    assert np.isfinite(photons).all()
    assert Conversion(0.0, 1.0, maps).fewest_photons(np.inf) == np.inf


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ({}, "neither"),
        ({"other": np.ones(SHAPE)}, "neither"),
        ({"gain": np.ones((4, 6))}, r"gain: .*\(2, 4, 6\)"),
        ({"pedestal": np.ones((2, 6, 4))}, r"pedestal: .*\(2, 6, 4\)"),
        ({"gain": np.full(SHAPE, b"1")}, "gain"),
        ({"gain": np.zeros(SHAPE)}, "not one pixel"),
    ],
)
def test_maps_that_can_not_be_used_are_an_error(tmp_path, maps, message):
    with pytest.raises(FileError, match=message):
        read_maps(write_maps(tmp_path / "maps.h5", **maps), TWO)


def test_a_file_that_is_no_map_is_an_error(tmp_path):
    (tmp_path / "maps.h5").write_text("text")
    with pytest.raises(FileError, match=r"maps\.h5"):
        read_maps(tmp_path / "maps.h5", TWO)


def test_a_link_to_a_map_that_is_gone_is_an_error(tmp_path):
    path = write_maps(tmp_path / "maps.h5", gain=h5py.ExternalLink("gone.h5", "/gain"))
    with pytest.raises(FileError, match=r"maps\.h5: expected an HDF5 file with datasets"):
        read_maps(path, TWO)


# ---------------------------------------------------------------- one pass over the pixels


def by_arrays(conversion, adu, usable, low, high):
    """Photons and valid pixels of an image by operations on whole arrays."""
    is_number = np.isfinite(adu) if adu.dtype.kind == "f" else True
    good = usable & is_number & (adu >= low)
    image = adu.astype(np.float32)
    image -= np.float32(conversion.offset_adu)
    if conversion.maps is not None:
        image -= conversion.maps.pedestal_adu
    image /= np.float32(conversion.adu_per_photon)
    if conversion.maps is not None:
        image /= conversion.maps.gain
    if adu.dtype.kind == "f":
        image[~np.isfinite(adu)] = 0
    return image, good & (adu <= high), np.count_nonzero(good)


@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", ">i4", "u8", "f4", ">f4", "f8"])
def test_one_pass_does_what_arrays_do(dtype, is_mapped):
    """To the last bit: in each type, with limits that lie on numbers of it, or between them."""
    rng = np.random.default_rng(1)
    shape = (3, 7, 11)
    adu = rng.integers(0, 900, shape)
    adu = (adu / 7 if np.dtype(dtype).kind == "f" else adu).astype(dtype)
    if adu.dtype.kind == "f":
        adu[0, 0, :3] = (np.nan, np.inf, -np.inf)
    maps = PixelMaps(
        rng.normal(0, 5, shape).astype(np.float32),
        rng.uniform(0.5, 2, shape).astype(np.float32),
        np.ones(shape, bool),
    )
    conversion = Conversion(10.3, 3.7, maps if is_mapped else None)
    usable = rng.random(shape) > 0.1
    exact = float(adu[1, 2, 3])
    limits = [(-np.inf, np.inf), (exact, 600.0), (20.1, exact), (0.0, conversion.adu(25.0))]
    kept = KeptArrays()
    for low, high in limits:
        image, valid, n_good = by_arrays(conversion, adu, usable, low, high)
        for arrays in (None, kept):
            photons = conversion.photons(adu, usable, (low, high), arrays)
            np.testing.assert_array_equal(photons.image, image)
            np.testing.assert_array_equal(photons.valid, valid)
            assert (photons.n_good, photons.n_valid) == (n_good, np.count_nonzero(valid))
    turned = conversion.photons(np.asfortranarray(adu), np.asfortranarray(usable))
    np.testing.assert_array_equal(turned.image, conversion.photons(adu, usable).image)


def test_an_image_is_constant_where_its_valid_pixels_are():
    adu = np.full(SHAPE, 7.0, np.float32)
    valid = np.ones(SHAPE, bool)
    assert is_constant(adu, valid)
    adu[1, 3, 5] = np.nan
    assert not is_constant(adu, valid)
    valid[1, 3, 5] = False
    assert is_constant(adu, valid)
    adu[0, 0, 0] = 8.0
    assert not is_constant(adu.astype(">f8"), valid)


# ---------------------------------------------------------------- common mode


def region(rng, mean: float, offset: float, readout: float = 0.2, n: int = 40) -> np.ndarray:
    """Photons of a region (n, n) that are off by an offset."""
    return rng.poisson(mean, (n, n)) + readout * rng.normal(size=(n, n)) + offset


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.3, 0.6])
@pytest.mark.parametrize("offset", [-0.8, -0.2, 0.0, 0.3, 0.7])
def test_the_offset_of_dark_pixels_is_found(mean, offset):
    photons = region(np.random.default_rng(2), mean, offset)
    assert common_mode.dark_peak(photons.ravel()) == pytest.approx(offset, abs=0.04)


@pytest.mark.parametrize("mean", [1.5, 3.0, 10.0, 1000.0])
@pytest.mark.parametrize("readout", [0.1, 0.3])
def test_a_bright_region_keeps_its_signal(mean, readout):
    """Whatever it is off by: there are too few dark pixels."""
    rng = np.random.default_rng(3)
    for offset in (-0.4, 0.0, 0.4):
        image = region(rng, mean, offset, readout)[None].astype(np.float32)
        before = image.copy()
        common_mode.subtract(image, np.ones(image.shape, bool), (40, 40))
        assert np.array_equal(image, before)


def test_regions_are_corrected_by_themselves():
    """Four regions of two panels, one of them bright, with masked junk; spots stay as they are."""
    rng = np.random.default_rng(4)
    offsets = np.array([[0.4, -0.3], [0.2, 0.0]])
    truth = rng.poisson(0.2, (2, 40, 60)).astype(float)
    truth[1, :, 30:] += rng.poisson(8.0, (40, 30))
    truth[0, 10:13, 5:8] += 50.0
    image = truth + 0.15 * rng.normal(size=truth.shape)
    image += np.repeat(offsets, 30, axis=1)[:, None, :]
    valid = rng.random(image.shape) > 0.2
    image[~valid] = -300.0
    image = image.astype(np.float32)
    common_mode.subtract(image, valid, (40, 30))
    error = np.where(valid, image - truth, np.nan)
    for panel, columns in ((0, np.s_[:30]), (0, np.s_[30:]), (1, np.s_[:30]), (1, np.s_[30:])):
        assert abs(np.nanmean(error[panel, :, columns])) < 0.03


def test_few_pixels_tell_nothing():
    assert common_mode.dark_peak(np.zeros(20)) is None
    assert common_mode.dark_peak(np.zeros(0)) is None


# ---------------------------------------------------------------- a manifest that names them


@pytest.fixture
def run(tmp_path):
    """A folder with one file, its frames, and a function that writes a manifest and opens it."""
    nexus_file.write(tmp_path / "0.nxs")

    def opened(*arguments: str) -> images.Source:
        words = ["manifest", str(tmp_path / "0.nxs"), "--out", str(tmp_path / "manifest.json")]
        assert main([*words, *arguments]) == 0
        return images.Source(tmp_path / "manifest.json")

    return tmp_path, nexus_file.images(), opened


def test_maps_named_in_a_manifest_are_applied(run):
    folder, frames, opened = run
    gain = np.random.default_rng(5).uniform(0.5, 2.0, frames.shape[1:])
    gain[0, 9, 9] = np.nan
    write_maps(folder / "maps.h5", gain=gain)
    plain = opened()
    source = opened("--calibration", str(folder / "maps.h5"))
    shot = source.read(0)
    good = np.isfinite(gain)
    expected = (frames[0] - 10.0) / (2.0 * gain)
    np.testing.assert_allclose(shot.image[good], expected[good], rtol=1e-5)
    assert not shot.mask[0, 9, 9]
    assert np.array_equal(shot.mask, plain.read(0).mask & good)
    np.testing.assert_allclose(shot.relative_gain[good], gain[good] / np.nanmedian(gain), rtol=1e-5)
    assert plain.read(0).relative_gain is None
    assert source.identity != plain.identity

    write_maps(folder / "maps.h5", gain=gain + 1)
    assert images.Source(folder / "manifest.json").identity != source.identity


def test_maps_of_another_detector_end_the_manifest(run, capsys):
    folder, _, _ = run
    write_maps(folder / "maps.h5", gain=np.ones((3, 3)))
    words = ["manifest", str(folder / "0.nxs"), "--out", str(folder / "manifest.json")]
    assert main([*words, "--calibration", str(folder / "maps.h5")]) != 0
    assert "maps.h5: gain" in capsys.readouterr().err


def test_a_sensor_named_in_a_manifest_has_its_parallax(run):
    _, _, opened = run
    assert opened().detector.parallax_mm is None
    assert opened().manifest.material == ""
    source = opened("--sensor", "Si", "0.5")
    assert source.manifest.material == "Si"
    thick = source.detector
    assert thick.thickness_mm == 0.5
    assert thick.parallax_mm == thick.attenuation_mm > 0.03
    thinner = opened("--sensor", "Si", "0").detector
    assert (thinner.thickness_mm, thinner.parallax_mm) == (0, None)


@pytest.mark.parametrize("region", [("0", "5"), ("185", "-194")])
def test_regions_of_no_pixels_are_refused_by_the_argument(tmp_path, capsys, region):
    out = str(tmp_path / "m.json")
    (tmp_path / "a.h5").touch()
    images_and_out = [str(tmp_path / "a.h5"), "--out", out]
    assert main(["manifest", *images_and_out, "--common-mode", *region]) == 3
    assert "--common-mode: expected two positive numbers" in capsys.readouterr().err


def test_a_sensor_of_no_known_material_is_an_error(run, capsys):
    folder, _, _ = run
    words = ["manifest", str(folder / "0.nxs"), "--out", str(folder / "manifest.json")]
    assert main([*words, "--sensor", "Unobtainium", "0.5"]) != 0
    assert "Unobtainium" in capsys.readouterr().err

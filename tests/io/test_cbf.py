"""CBF stills: pixels and geometry of full and mini CBF as they should be; what is damaged or not
understood is one clear error.
"""

import gzip
import re
from contextlib import closing

import numpy as np
import pytest

import image_files
from image_files import FULL, MINI, full_cbf, image, mini_cbf, section
from spreadflow.errors import FileError, Outcome
from spreadflow.io import images
from spreadflow.io.images.cbf import TYPES, Section, decoded, open_cbf
from spreadflow.models import Shot
from spreadflow.units import energy


@pytest.fixture
def array() -> np.ndarray:
    """The pixels of the two panels, and as many that belong to none."""
    return image(2, 4, 6)


@pytest.fixture
def full(tmp_path, array):
    """A function that writes a full CBF, texts of its header replaced, and opens it."""

    def opened(*changes: tuple[str, str]):
        header = FULL
        for old, new in changes:
            assert old in header
            header = header.replace(old, new)
        return open_cbf(full_cbf(tmp_path / "x.cbf", {"ARRAY": array}, header))

    return opened


@pytest.fixture
def mini(tmp_path):
    """A function that writes a mini CBF, texts of its header replaced, and opens it."""

    def opened(*changes: tuple[str, str], pixels=None):
        header = MINI
        for old, new in changes:
            assert old in header
            header = header.replace(old, new)
        pixels = image(5, 7) if pixels is None else pixels
        return open_cbf(mini_cbf(tmp_path / "x.cbf", pixels, header))

    return opened


# ---------------------------------------------------------------- full CBF


def test_sections_of_an_array_are_panels(full, array):
    still = full()
    assert still.n_frames == 1
    assert still.frame(0).dtype == np.int32
    assert np.array_equal(still.frame(0), [array[0, :, :3], array[1, :, 3:]])
    assert still.mask.shape == (2, 4, 3)
    assert still.mask.all()


def test_a_chain_of_axes_places_the_panels(full):
    """By hand: A at (10, 5, -100) and (-1, 2, 0) turned by 90° about z; B at (-3, 1.5, -100)."""
    detector = full().detector
    assert detector.shape == (4, 3)
    assert detector.pixel_mm == pytest.approx(0.1)
    assert np.allclose(detector.origin_mm, [[8, 4, -100], [-3, 1.5, -100]], rtol=0, atol=1e-12)
    assert np.allclose(detector.fast, [[0, 1, 0], [1, 0, 0]], rtol=0, atol=1e-12)
    assert np.allclose(detector.slow, [[1, 0, 0], [0, -1, 0]], rtol=0, atol=1e-12)


def test_arrays_of_their_own_are_panels(tmp_path):
    """Without sections, and with the second array first in the file."""
    lists = """
loop_
_array_structure_list.array_id
_array_structure_list.index
_array_structure_list.dimension
_array_structure_list.precedence
_array_structure_list.direction
_array_structure_list.axis_set_id
 A 1 3 1 increasing A_F
 A 2 4 2 increasing A_S
 B 1 3 1 increasing B_F
 B 2 4 2 increasing B_S
"""
    arrays = {"B": image(4, 3, seed=1), "A": image(4, 3, seed=2)}
    header = FULL.replace(image_files.LISTS, lists)
    still = open_cbf(full_cbf(tmp_path / "x.cbf", arrays, header))
    assert np.array_equal(still.frame(0), [arrays["A"], arrays["B"]])
    assert np.allclose(still.detector.origin_mm, [[8, 4, -100], [-3, 1.5, -100]])


def test_columns_may_be_stored_first(full, array):
    """The axis across the rows is the fast one: of 3 columns and 4 rows."""
    still = full(
        ("PANEL_A 1 3 1 increasing A_F", "PANEL_A 1 3 2 increasing A_F"),
        ("PANEL_A 2 4 2 increasing A_S", "PANEL_A 2 4 1 increasing A_S"),
        ("PANEL_B 1 3 1 increasing B_F", "PANEL_B 1 3 2 increasing B_F"),
        ("PANEL_B 2 4 2 increasing B_S", "PANEL_B 2 4 1 increasing B_S"),
    )
    assert np.array_equal(still.frame(0), [array[0, :, :3].T, array[1, :, 3:].T])
    assert still.detector.shape == (3, 4)
    assert np.allclose(still.detector.fast[1], [0, -1, 0])


def test_a_displacement_is_of_the_first_pixels_centre(full):
    """The rows of B go up, from a centre at 0.05 mm: its outer edge is at 0.1 mm."""
    still = full(("B_F B_F 0.0 0.1", "B_F B_F 0.05 0.1"), ("B_S B_S 0.0 0.1", "B_S B_S 0.05 -0.1"))
    assert np.allclose(still.detector.origin_mm[1], [-3, 1.5 - 0.1, -100], rtol=0, atol=1e-12)
    assert np.allclose(still.detector.slow[1], [0, 1, 0], rtol=0, atol=1e-12)


def test_settings_of_the_scan_stand_in_for_those_of_the_frame(full):
    scan = "\nloop_\n_diffrn_scan_axis.axis_id\n_diffrn_scan_axis.angle_start\n"
    scan += "_diffrn_scan_axis.displacement_start\n D_Z 0 -70\n SENSOR 90 0\n"
    detector = full((image_files.SETTINGS, scan)).detector
    assert np.allclose(detector.origin_mm, [[8, 4, -70], [-3, 1.5, -70]], rtol=0, atol=1e-12)


def test_intensities_are_trusted_and_scaled_as_stated(full):
    still = full()
    low, high = still.trusted_range
    assert -400 < low < -399.99
    assert high == 1000
    assert still.pedestal == (0, 9)


def test_stored_intensities_may_be_scaled_and_displaced(full):
    """I = 2 stored + 10 and a photon is 8 of I: stored = 4 photons - 5."""
    still = full(
        ("linearity linear", "linearity scaling_offset"),
        ("gain 9.0", "gain 8.0\n_array_intensities.scaling 2\n_array_intensities.offset 10"),
    )
    assert still.pedestal == (-5, 4)


def test_an_undefined_value_in_the_range_masks_its_pixels(full, array):
    value = int(np.median(array[array > 0]))
    still = full(("undefined_value -400", f"undefined_value {value}"))
    assert still.trusted_range == (-np.inf, 1000)
    assert np.array_equal(still.mask, still.frame(0) != value)
    assert not still.mask.all()


def test_one_wavelength_is_one_photon(full):
    spectrum = full().spectrum(0)
    assert (spectrum.energies_ev, spectrum.photons) == (energy(1.25), 1)
    assert full().spectra(slice(0, 1)).photons.shape == (1, 1)


def test_weighted_wavelengths_are_a_spectrum(full):
    loop = "\nloop_\n_diffrn_radiation_wavelength.id\n_diffrn_radiation_wavelength.wavelength\n"
    loop += "_diffrn_radiation_wavelength.wt\n 1 1.25 0.5\n 2 1.24 2\n 3 1.26 ?\n"
    spectrum = full((image_files.WAVELENGTH, loop)).spectrum(0)
    assert np.allclose(spectrum.energies_ev, energy(np.array([1.26, 1.25, 1.24])))
    assert spectrum.photons.tolist() == [1, 0.5, 2]


@pytest.mark.parametrize(
    ("ratio", "normal", "expected", "remark"),
    [
        ("0.95", "0", 0.95, None),
        ("0.95", "?", 0.95, None),
        ("0.95", "90", -0.95, None),
        ("-1", "0.1", -1.0, None),
        ("0.9", "30", 0.45, "across the laboratory axes, .* taken as 0.45 along x"),
        ("1.5", "0", None, "polarizn_source_ratio makes no sense: not used"),
        ("?", "0", None, None),
    ],
)
def test_polarization_is_that_of_the_source(full, ratio, normal, expected, remark):
    """The angle is from y to the normal of the plane in which light is polarized."""
    stated = f"\n_diffrn_radiation.polarizn_source_ratio {ratio}\n"
    stated += f"_diffrn_radiation.polarizn_source_norm {normal}\n"
    still = full((image_files.WAVELENGTH, image_files.WAVELENGTH + stated))
    assert still.polarization == pytest.approx(expected, abs=1e-4)
    assert len(still.remarks) == (remark is not None)
    if remark is not None:
        assert re.search(remark, still.remarks[0])


def test_what_a_header_does_not_state_is_left_open(full, mini):
    assert (full().polarization, full().remarks) == (None, [])
    assert (mini().polarization, mini().remarks) == (None, [])


def test_without_a_wavelength_there_is_no_spectrum(full):
    still = full((image_files.WAVELENGTH, ""))
    assert still.remarks == ["the header states no wavelength"]
    with pytest.raises(FileError, match="a wavelength in the header; found none"):
        still.spectrum(0)


@pytest.mark.parametrize("kind", TYPES)
def test_pixels_of_every_type_are_read(kind):
    lowest = 0 if kind.startswith("unsigned") else -100
    pixels = (lowest + np.arange(2 * 3 * 5).reshape(2, 3, 5)).astype(TYPES[kind])
    plain = Section(pixels.tobytes(), '"x-CBF_NONE"', kind, pixels.shape, md5="")
    read = decoded(plain)
    assert read.dtype == pixels.dtype
    assert np.array_equal(read, pixels)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0 -100.0", "0 100.0", "a detector downstream of the sample"),
        ("0 -100.0", "0 nan", "displacement: expected a finite number"),
        ("0 -100.0", "0 far", "displacement: expected a finite number; found 'far'"),
        ("A_F translation detector A_S 1 0 0", "A_F translation detector A_S 1 0.1 0", "84.289°"),
        ("A_F translation detector A_S 1 0 0", "A_F translation detector A_S 0 0 0", "a vector of"),
        ("A_F A_F 0.0 0.1", "A_F A_F 0.0 0.2", "square pixels of equal size; found 0.1 to 0.2 mm"),
        (
            "A_F A_F 0.0 0.1",
            "A_F A_F 0.0 ?",
            "increment: expected a finite number; found none",
        ),
        ("A_F A_F 0.0 0.1", "A_F SENSOR 0.0 0.1", "translations A_F and A_S, of which one depends"),
        ("B_F B_F 0.0 0.1", "A_F B_F 0.0 0.1", "one axis for each index"),
        ("QUADRANT translation detector D_Z", "QUADRANT translation detector A_F", "a circle"),
        ("QUADRANT translation detector D_Z", "QUADRANT translation detector D_Y", "no axis D_Y"),
        ("source . 0 0 1", "source . 1 0 0", "a source along z"),
        ("PANEL_A 1 3 1 increasing", "PANEL_A 1 3 1 decreasing", "the direction `increasing`"),
        (
            "PANEL_A 1 3 1 increasing",
            "PANEL_A 1 2 1 increasing",
            r"of \[1, 4, 2\] pixels, within its array",
        ),
        ("PANEL_B 1 4 6", "PANEL_B 1 5 7", "two indices of PANEL_B"),
        ("PANEL_B 3 2 2", "PANEL_B 3 1 2", "two indices of PANEL_B"),
        ("ARRAY . 3 2 3", "ARRAY . 3 5 3", r"an array of \(5, 4, 6\) pixels; found \(2, 4, 6\)"),
        ("ARRAY . 3 2 3", "ARRAY . 3 -2 3", "dimension: expected an integer from 1"),
        ("D_Z FRAME1 0 -100.0", "D_Z FRAME1 0 -100.0\n D_Z FRAME2 0 -90", "one setting of D_Z"),
        ("linearity linear", "linearity sqrt_scaled", "linearity among linear, raw"),
        ("gain 9.0", "gain 0", "a positive gain"),
        ("wavelength 1.25", "wavelength -1.25", "positive wavelengths"),
        ("_axis.type\n", "_axis.type 'x\n", "a complete CBF"),
        (image_files.CHAIN, "", r"axes \(full CBF\) or _array_data.header_contents"),
    ],
)
def test_a_header_that_makes_no_sense_is_one_clear_error(full, old, new, message):
    with pytest.raises(FileError, match=message) as caught:
        full((old, new))
    assert "x.cbf" in str(caught.value)


def test_several_images_in_a_file_are_refused(tmp_path):
    path = full_cbf(tmp_path / "x.cbf", {"ARRAY": image(2, 4, 6)})
    path.write_bytes(path.read_bytes() + b" ARRAY 2" + section(image(2, 4, 6), 2))
    with pytest.raises(FileError, match="one image a file; found several of ARRAY"):
        open_cbf(path)


def test_a_truncated_file_is_one_clear_error(tmp_path, array):
    path = full_cbf(tmp_path / "x.cbf", {"ARRAY": array})
    raw = path.read_bytes()
    start = raw.index(b"\x0c\x1a\x04\xd5")
    for length in (start + 20, start, start - 20, start // 2):
        path.write_bytes(raw[:length])
        with pytest.raises(FileError, match=r"Check that (it|the file) is complete"):
            open_cbf(path)


def test_cbflib_and_fabio_compress_the_same_pixels(tmp_path, array):
    """What CBFlib packs is read as what fabio writes by byte offsets."""
    import pycbf

    handle = pycbf.cbf_handle_struct()
    handle.new_datablock(b"x")
    handle.new_category(b"array_data")
    handle.new_column(b"data")
    planes, slow, fast = array.shape
    handle.set_integerarray_wdims_fs(
        pycbf.CBF_PACKED,
        1,
        array.tobytes(),
        4,
        1,
        array.size,
        b"little_endian",
        fast,
        slow,
        planes,
        0,
    )
    handle.write_widefile(str(tmp_path / "packed"), pycbf.CBF, pycbf.MIME_HEADERS, 0)
    packed = (tmp_path / "packed").read_bytes()
    start = packed.index(b"--CIF-BINARY-FORMAT-SECTION--")

    path = full_cbf(tmp_path / "x.cbf", {"ARRAY": array})
    expected = open_cbf(path).frame(0)
    raw = path.read_bytes()
    assert b"x-CBF_PACKED" in packed
    path.write_bytes(raw[: raw.index(b"--CIF-BINARY-FORMAT-SECTION--")] + packed[start:])
    assert np.array_equal(open_cbf(path).frame(0), expected)


# ---------------------------------------------------------------- mini CBF


def test_a_mini_cbf_is_one_panel_across_the_beam(mini):
    still = mini()
    assert np.array_equal(still.frame(0), image(1, 5, 7))
    detector = still.detector
    assert np.allclose(detector.origin_mm, [[-3.5 * 0.172, 1.25 * 0.172, -250]], rtol=0, atol=1e-12)
    assert detector.fast.tolist() == [[1, 0, 0]]
    assert detector.slow.tolist() == [[0, -1, 0]]
    assert detector.pixel_mm == pytest.approx(0.172)
    assert detector.shape == (5, 7)
    assert still.trusted_range == (0, 1048574)
    assert still.pedestal == (0, 1)
    assert still.spectrum(0).energies_ev == energy(0.9793)


def test_the_sensor_of_a_mini_cbf_is_known(mini):
    """Silicon at 12.66 keV: μ/ρ of 17.0 cm²/g between the 33.9 at 10 and 10.3 at 15 keV of NIST."""
    detector = mini().detector
    assert detector.thickness_mm == pytest.approx(0.32)
    assert detector.attenuation_mm == pytest.approx(10 / (17.0 * 2.33), rel=0.03)
    assert detector.parallax_mm == detector.attenuation_mm
    unknown = mini(("Silicon sensor", "Selenium sensor")).detector
    assert (unknown.thickness_mm, unknown.attenuation_mm) == (0, 0)
    assert unknown.parallax_mm is None
    (compound,) = {
        mini(("Silicon", name)).detector.attenuation_mm for name in ("CdTe", "Cadmium telluride")
    }
    assert 0 < compound < detector.attenuation_mm


def test_gaps_of_unsigned_counts_are_masked_and_not_saturated(mini):
    pixels = image(5, 7, dtype="uint32")
    pixels[1] = 2**32 - 1
    pixels[2, 3] = 2**32 - 2
    still = mini(pixels=pixels)
    assert np.array_equal(still.mask[0], pixels < 2**32 - 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Beam_xy (3.5, 1.25) pixels", "Beam_xy (3.5) pixels", "Beam_xy: expected 2 finite"),
        ("# Beam_xy (3.5, 1.25) pixels", "#", "Beam_xy: expected 2 finite numbers; found none"),
        ("Detector_distance 0.25 m", "Detector_distance -0.25 m", "positive lengths in mm"),
        ("Detector_distance 0.25 m", "Detector_distance 0.25 furlong", "positive lengths in mm"),
        ("x 172e-6 m", "x 100e-6 m", "square pixels"),
        ("Detector_2theta 0.0", "Detector_2theta 20.0", "Detector_2theta 0; found 20.0"),
        ("Wavelength 0.9793", "Wavelength 0", "a positive Wavelength"),
    ],
)
def test_a_mini_header_that_makes_no_sense_is_one_clear_error(mini, old, new, message):
    with pytest.raises(FileError, match=message):
        mini((old, new))


# ---------------------------------------------------------------- runs


def test_files_of_a_run_are_its_shots(tmp_path):
    """Three files, one of them compressed as a whole, another with a pixel damaged."""
    paths = [full_cbf(tmp_path / f"{k}.cbf", {"ARRAY": image(2, 4, 6, seed=k)}) for k in range(3)]
    zipped = tmp_path / "2.cbf.gz"
    zipped.write_bytes(gzip.compress(paths[2].read_bytes()))
    raw = bytearray(paths[1].read_bytes())
    raw[raw.index(b"\x0c\x1a\x04\xd5") + 10] ^= 1
    paths[1].write_bytes(raw)

    described = images.write_manifest(tmp_path / "manifest.json", "r", [*paths[:2], zipped])
    assert [file.n_frames for file in described.files] == [1, 1, 1]
    assert described.adu_per_photon == 9
    assert (described.polarization, described.remarks) == (1.0, [])
    source = images.Source(tmp_path / "manifest.json")
    assert source.read(1) is Outcome.UNREADABLE
    assert source.problems == [f"{paths[1]}, frame 0: the checksum of the pixels is wrong"]
    for number, name in ((0, "0.cbf"), (2, "2.cbf.gz")):
        shot = source.read(number)
        assert isinstance(shot, Shot)
        assert shot.shot_id == images.shot_id("r", name, 0)
        array = image(2, 4, 6, seed=number)
        assert np.allclose(shot.image, np.array([array[0, :, :3], array[1, :, 3:]]) / 9)
        assert shot.spectrum.energies_ev == energy(1.25)
        assert np.array_equal(shot.mask, shot.image * 9 <= 1000.01)


# ---------------------------------------------------------------- real stills


def test_real_cspad_is_64_panels_where_its_axes_say(real_stills):
    """Corners of four panels as CBFlib places them; the lowest and highest pixel as it reads
    them.
    """
    with closing(
        images.open_image(real_stills / "thermolysin_cspad/idx-20130301060858401.cbf")
    ) as still:
        detector = still.detector
        assert (detector.n_panels, detector.shape) == (64, (185, 194))
        assert detector.pixel_mm == pytest.approx(0.10992)
        corner_mm = [-49.18838981152618, -3.342251908829013, -130.10663267291417]
        assert np.allclose(detector.origin_mm[0], corner_mm, rtol=0, atol=1e-9)
        assert np.allclose(detector.origin_mm[:, 2], corner_mm[2])
        assert np.allclose(np.sum(detector.fast * detector.slow, axis=1), 0, atol=1e-12)
        assert still.frame(0).shape == still.mask.shape == (64, 185, 194)
        assert still.trusted_range[1] == 90000
        assert still.spectrum(0).energies_ev == energy(1.272607)


def test_real_rayonix_is_one_panel_about_the_beam(real_stills):
    path = real_stills / "rayonix340/hit-20181213155134902.cbf"
    with closing(images.open_image(path)) as still:
        detector = still.detector
        assert np.allclose(detector.origin_mm, [[-170, 170, -124]])
        assert detector.shape == (1920, 1920)
        assert detector.pixel_mm == pytest.approx(340 / 1920)
        pixels = still.frame(0)
        assert (pixels.min(), pixels.max()) == (0, 31096)

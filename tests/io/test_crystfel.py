"""HDF5 images that a CrystFEL geometry file describes: pixels, energies and masks are those that
were written; and geometry that takes the place of a header's.
"""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import crystfel_file
import image_files
import nexus_file
from crystfel_file import DATA, ENERGIES_EV, GEOM, MASK, N_FRAMES, PANELS, SHAPE, panels, put
from spreadflow import cli
from spreadflow.errors import FileError
from spreadflow.io import images
from spreadflow.io.images.geometry import read_geometry
from spreadflow.io.lattices import dials_writer
from spreadflow.units import energy

STORED = crystfel_file.frames()

OF_DATA = (2 * SHAPE[0], SHAPE[1])
"""Shape of a frame as it is stored."""


def opened(
    folder: Path, geom: str = GEOM, edit: Callable[[h5py.File], None] | None = None
) -> images.ImageFile:
    files = crystfel_file.write(folder, geom, edit)
    return images.open_image(files.images, read_geometry(files.geom))


def flagged(file: images.ImageFile, number: int = 0) -> np.ndarray:
    """The pixels (panel, slow, fast) of a frame that are not to be used."""
    return ~file.mask | np.isnan(file.frame(number).astype(float))


def with_setting(*lines: str) -> str:
    return GEOM.replace("dim0 = %", "\n".join([*lines, "dim0 = %"]))


def test_pixels_and_energies_are_those_that_were_written(tmp_path):
    file = opened(tmp_path)
    assert file.n_frames == N_FRAMES
    for number in range(N_FRAMES):
        np.testing.assert_array_equal(file.frame(number), panels(STORED[number]))
        assert file.spectrum(number).energies_ev.tolist() == [ENERGIES_EV[number]]
    assert file.mask.all()
    assert file.detector.origin_mm[0, 2] == pytest.approx(-100.0), "encoder and offset"


def test_shots_of_a_manifest_are_in_photons(tmp_path):
    files = crystfel_file.write(tmp_path)
    command = ["manifest", str(files.images), "--geometry", str(files.geom)]
    assert cli.main([*command, "--out", str(tmp_path / "m.json")]) == 0
    shot = images.Source(tmp_path / "m.json").read(1)
    np.testing.assert_array_equal(shot.image, panels(STORED[1]).astype(np.float32) / 4)
    assert shot.saturation_photons == 250.0


@pytest.mark.parametrize(
    ("stated", "written"),
    [
        ("photon_energy = 7120", None),
        ("photon_energy = 7.12 keV", None),
        ("wavelength = 1.7 A", None),
        ("wavelength = /w m", 1.7e-10),
        ("wavelength = /w", 1.7e-10),
        ("wavelength = /w A", np.full(N_FRAMES, 1.7)),
    ],
)
def test_an_energy_is_a_number_or_a_dataset(tmp_path, stated, written):
    geom = GEOM.replace(f"photon_energy = {crystfel_file.ENERGY} eV", stated)
    edit = None if written is None else lambda f: put(f, "/w", written)
    file = opened(tmp_path, geom, edit)
    expected = 7120.0 if "energy" in stated else energy(1.7)
    assert file.spectrum(2).energies_ev == pytest.approx([expected])


@pytest.mark.parametrize(
    ("beside_path", "attribute", "value"),
    [
        ("", None, 100.0),
        ("", "m", 0.1),
        ("", "counts", 100.0),
        (" m", "mm", 0.1),
        (" cm", None, 10),
    ],
)
def test_a_camera_length_in_a_dataset_is_in_mm_unless_a_unit_is_stated(
    tmp_path, beside_path, attribute, value
):
    """As CrystFEL takes it; it never looks at an attribute."""

    def edit(f: h5py.File) -> None:
        put(f, crystfel_file.ENCODER, np.full(N_FRAMES, value))
        if attribute is not None:
            f[crystfel_file.ENCODER].attrs["units"] = attribute

    geom = GEOM.replace("coffset = 0.550", "coffset = 0")
    geom = geom.replace(
        f"clen = {crystfel_file.ENCODER}", f"clen = {crystfel_file.ENCODER}{beside_path}"
    )
    assert opened(tmp_path, geom, edit).detector.origin_mm[0, 2] == pytest.approx(-100.0)


def test_an_energy_has_the_unit_that_its_dataset_states(tmp_path):
    def edit(f: h5py.File) -> None:
        put(f, crystfel_file.ENERGY, ENERGIES_EV * 1.602176634e-19)
        f[crystfel_file.ENERGY].attrs["units"] = "J"

    file = opened(tmp_path, GEOM.replace(f"{crystfel_file.ENERGY} eV", crystfel_file.ENERGY), edit)
    assert file.spectrum(2).energies_ev == pytest.approx([ENERGIES_EV[2]])


def test_a_gain_in_adu_per_ev_is_that_at_the_photon_energy(tmp_path):
    geom = GEOM.replace("adu_per_photon = 4", "adu_per_eV = 0.001")
    geom = geom.replace(f"photon_energy = {crystfel_file.ENERGY} eV", "photon_energy = 7000")
    files = crystfel_file.write(tmp_path, geom)
    manifest = images.write_manifest(tmp_path / "m.json", "r", [files.images], geometry=files.geom)
    assert manifest.adu_per_photon == pytest.approx(7.0)


BITS = np.zeros(OF_DATA, np.uint16)
BITS[1, 2] = 1
BITS[5, 3] = 2
BITS[6, 0] = 3
"""Masks of bits as they are stored; panel b begins in row 4."""


@pytest.mark.parametrize(
    ("lines", "bad"),
    [
        (("mask_good = 0", "mask_bad = 1"), [(0, 1, 2), (1, 2, 0)]),
        (("mask_good = 0x2", "mask_bad = 0x1"), "all but (1, 1, 3)"),
        (("mask_good = 0", "mask_bad = 0xffff"), [(0, 1, 2), (1, 1, 3), (1, 2, 0)]),
    ],
)
def test_bits_of_a_mask_are_bad_or_needed(tmp_path, lines, bad):
    geom = with_setting(f"mask = {MASK}", *lines)
    file = opened(tmp_path, geom, lambda f: put(f, MASK, BITS))
    expected = np.zeros((2, *SHAPE), bool)
    if isinstance(bad, str):
        expected[:] = True
        expected[1, 1, 3] = False
    else:
        expected[tuple(np.transpose(bad))] = True
    np.testing.assert_array_equal(flagged(file), expected)


def test_several_flags_hold_together(tmp_path):
    """Of the whole and of a panel; the smallest range, and every number by itself."""
    lines = ["flag_lessthan = 10", "flag_lessthan = 5", "flag_equal = 300"]
    geom = with_setting(*lines) + "b/flag_equal = 0x12d\nb/flag_morethan = 800\n"
    stored = STORED.copy()
    stored[0, 1, 1:4] = 300, 301, 9
    stored[0, 6, 1:6] = 300, 301, 800, 801, 10
    file = opened(tmp_path, geom, lambda f: put(f, DATA, stored))
    bad = panels(stored[0] < 10) | panels(stored[0] == 300)
    bad[1] |= (panels(stored[0])[1] == 301) | (panels(stored[0])[1] > 800)
    np.testing.assert_array_equal(flagged(file), bad)
    assert bad[0, 1, 1:4].tolist() == [True, False, True]
    assert bad[1, 2, 1:6].tolist() == [True, True, False, True, False]


def test_several_masks_and_one_in_a_file_of_its_own(tmp_path):
    """The file is named relative to that of the geometry."""
    with h5py.File(tmp_path / "hot.h5", "w") as f:
        f["bad"] = np.where(np.arange(48).reshape(OF_DATA) == 7, 4, 0).astype(np.uint8)
    geom = with_setting(
        f"mask0_data = {MASK}",
        "mask0_badbits = 0x2",
        "mask1_data = /bad",
        "mask1_file = hot.h5",
        "mask1_badbits = 0x4",
    )
    file = opened(tmp_path, geom, lambda f: put(f, MASK, BITS))
    bad = np.argwhere(flagged(file)).tolist()
    assert bad == [[0, 1, 1], [1, 1, 3], [1, 2, 0]]


def test_a_run_without_the_mask_of_its_geometry_says_which(tmp_path):
    """Also where a refined detector takes the place of the geometry."""
    files = crystfel_file.write(tmp_path, with_setting("mask = /m", "mask_file = m.h5"))
    with h5py.File(tmp_path / "m.h5", "w") as f:
        f["m"] = BITS
    images.write_manifest(tmp_path / "m.json", "r", [files.images], geometry=files.geom)
    refined = images.Source(tmp_path / "m.json").detector
    (tmp_path / "m.h5").unlink()
    for detector in (None, refined):
        with pytest.raises(FileError, match=r"m\.h5: expected the mask that .*a\.geom names"):
            images.Source(tmp_path / "m.json", geometry=detector)


def test_a_mask_of_each_frame(tmp_path):
    bits = np.zeros((N_FRAMES, *OF_DATA), np.uint16)
    bits[1, 4, 2] = 2
    geom = with_setting(f"mask = {MASK}", "mask_good = 0", "mask_bad = 0x2")
    file = opened(tmp_path, geom, lambda f: put(f, MASK, bits))
    assert [int(flagged(file, number).sum()) for number in range(N_FRAMES)] == [0, 1, 0]
    assert flagged(file, 1)[1, 0, 2]


def test_frames_in_groups_of_their_own(tmp_path):
    """% in a path stands for the name of an event."""

    def regrouped(f: h5py.File) -> None:
        stored = f[DATA][()]
        del f[DATA]
        for number, name in enumerate(("e1", "e2", "e3")):
            f[f"/events/{name}/data"] = stored[number]

    geom = GEOM.replace(f"data = {DATA}", "data = /events/%/data").replace("dim0 = %\n", "")
    geom = geom.replace("dim1 = ss", "dim0 = ss").replace("dim2 = fs", "dim1 = fs")
    file = opened(tmp_path, geom, regrouped)
    np.testing.assert_array_equal(file.frame(2), panels(STORED[2]))
    assert file.spectrum(2).energies_ev.tolist() == [ENERGIES_EV[2]]


def test_axes_in_another_order(tmp_path):
    geom = GEOM.replace("dim0 = %", "dim2 = %").replace("dim1 = ss", "dim0 = ss")
    geom = geom.replace("dim2 = fs", "dim1 = fs")
    file = opened(tmp_path, geom, lambda f: put(f, DATA, np.moveaxis(f[DATA][()], 0, 2)))
    np.testing.assert_array_equal(file.frame(1), panels(STORED[1]))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda f: f.pop(DATA), "a dataset /entry_1/data_1/data"),
        (lambda f: put(f, DATA, STORED[0]), "dimensions %, ss, fs"),
        (lambda f: put(f, DATA, STORED[:, :6]), "another detector"),
        (lambda f: put(f, crystfel_file.ENERGY, ENERGIES_EV[:2]), "1 or 3 values"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, edit, named):
    with pytest.raises(FileError, match=named):
        opened(tmp_path, GEOM, edit)


@pytest.mark.parametrize("stated", ["photon_energy = 0", "wavelength = -1.7 A", "wavelength = nan"])
def test_an_energy_that_is_none_is_refused(tmp_path, stated):
    geom = GEOM.replace(f"photon_energy = {crystfel_file.ENERGY} eV", stated)
    with pytest.raises(FileError, match=f"{stated.split()[0]}: expected a"):
        opened(tmp_path, geom)


def test_a_file_without_its_geometry_says_what_to_do(tmp_path):
    files = crystfel_file.write(tmp_path)
    with pytest.raises(FileError, match="--geometry"):
        images.open_image(files.images)


def test_a_header_without_a_sound_geometry_is_replaced(tmp_path):
    """NXmx with a detector nowhere, by an .expt: shots and spectra stay."""
    path = tmp_path / "a.nxs"
    nexus_file.write(path)
    expected = nexus_file.DETECTOR._replace(origin_mm=np.array([[-1.0, 1.0, -90.0]]))
    dials_writer.write_expt(tmp_path / "a.expt", expected, wavelength=1.7)
    whole = images.open_image(path)
    energies = whole.spectrum(0).energies_ev
    whole.close()
    with h5py.File(path, "r+") as f:
        f[f"{nexus_file.STEPS}/AXIS_RAIL"][...] = np.nan
    with pytest.raises(FileError):
        images.open_image(path)

    images.write_manifest(tmp_path / "m.json", "r", [path], geometry=tmp_path / "a.expt")
    source = images.Source(tmp_path / "m.json")
    np.testing.assert_allclose(source.detector.origin_mm, expected.origin_mm, atol=1e-9)
    np.testing.assert_array_equal(source.read(0).spectrum.energies_ev, energies)


def test_a_geometry_without_a_sensor_leaves_that_of_the_header(tmp_path):
    """Of mini CBF and NXmx: where photons are recorded is no part of a .geom."""
    pixels = image_files.image(4, 6)
    path = image_files.mini_cbf(tmp_path / "a.cbf", pixels)
    geom = tmp_path / "a.geom"
    geom.write_text(f"clen = 0.1\nres = 10000\n{PANELS.split(chr(10) + 'b/')[0]}")
    own = images.open_image(path).detector
    replaced = images.open_image(path, read_geometry(geom)).detector
    assert own.thickness_mm == replaced.thickness_mm == pytest.approx(0.32)
    assert own.parallax_mm == replaced.parallax_mm

    path = tmp_path / "a.nxs"
    nexus_file.write(path)
    with h5py.File(path, "r+") as f:
        item = nexus_file.put(f, f"{nexus_file.SENSOR}/sensor_thickness", 0.45)
        for name in list(item.attrs):
            if name != "units":
                del item.attrs[name]
    thin = nexus_file.DETECTOR._replace(thickness_mm=0.0)
    dials_writer.write_expt(tmp_path / "a.expt", thin, wavelength=1.7)
    replaced = images.open_image(path, read_geometry(tmp_path / "a.expt")).detector
    assert replaced.thickness_mm == pytest.approx(0.45)
    assert replaced.parallax_mm == images.open_image(path).detector.parallax_mm > 0


def test_a_header_without_a_distance_is_replaced(tmp_path):
    """SMV, by a .geom of one panel."""
    stored = image_files.image(4, 6, dtype="uint16")
    header = {key: value for key, value in image_files.SMV.items() if key != "DISTANCE"}
    path = image_files.smv(tmp_path / "a.img", stored, header)
    geom = tmp_path / "a.geom"
    one_panel = PANELS.split("\nb/")[0]
    geom.write_text(f"clen = 0.1\nres = 10000\nadu_per_eV = 0.001\n{one_panel}")
    manifest = images.write_manifest(tmp_path / "m.json", "r", [path], geometry=geom)
    assert any("alone is taken from it; not used: adu_per_eV" in x for x in manifest.remarks)
    source = images.Source(tmp_path / "m.json")
    assert source.detector.origin_mm[0].tolist() == pytest.approx([1.0, 0.5, -100.0])
    np.testing.assert_array_equal(source.read(0).image[0], stored.astype(np.float32))

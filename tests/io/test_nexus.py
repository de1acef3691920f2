"""NXmx: what is written comes back, also through the reader nxmx; nanoBragg's file reads as its
truth says.
"""

import json
import shutil
import subprocess
from contextlib import closing

import h5py
import hdf5plugin
import numpy as np
import nxmx
import pytest

from spreadflow.errors import FileError
from spreadflow.io import nexus_writer
from spreadflow.io.images.nexus import NexusFile
from spreadflow.models import Detector
from spreadflow.physics.rotation import from_vector
from spreadflow.units import energy, wavelength

ENERGIES = 7070.5 + np.arange(20)


def one_panel() -> Detector:
    return Detector(
        origin_mm=np.array([[-2.3, 2.1, -141.7]]),
        fast=np.array([[1.0, 0, 0]]),
        slow=np.array([[0, -1.0, 0]]),
        pixel_mm=0.177,
        shape=(24, 26),
        thickness_mm=0.032,
        attenuation_mm=0.017,
    )


def tilted_panels() -> Detector:
    """Return 2 × 2 panels, each turned its own way."""
    turns = from_vector(0.05 * np.random.default_rng(3).normal(size=(4, 3)))
    corners = np.array([[-5.0, 5, -140], [0.5, 5, -141], [-5, -0.5, -142], [0.5, -0.5, -143]])
    return Detector(
        origin_mm=corners,
        fast=turns[:, :, 0],
        slow=-turns[:, :, 1],
        pixel_mm=0.2,
        shape=(12, 10),
    )


def geometry_of(path) -> Detector:
    with closing(NexusFile(path)) as file:
        return file.detector


def spectra_of(path) -> tuple[np.ndarray, np.ndarray]:
    """Return energies and photons of a file, each (shot, channel)."""
    with closing(NexusFile(path)) as file:
        spectra = [file.spectrum(i) for i in range(file.n_frames)]
    energies_ev = np.array([spectrum.energies_ev for spectrum in spectra])
    photons = np.array([spectrum.photons for spectrum in spectra])
    return energies_ev, photons


def stills_of(detector: Detector, n: int = 3) -> nexus_writer.Stills:
    """Return n random frames."""
    rng = np.random.default_rng(1)
    shape = (detector.n_panels, *detector.shape)
    return nexus_writer.Stills(
        images=rng.integers(-5, 1000, size=(n, *shape)).astype(np.int32),
        shot_ids=np.arange(n, dtype=np.uint64) + np.uint64(2**63),
        energies_ev=ENERGIES,
        photons=rng.random((n, len(ENERGIES))) * 1e10,
    )


def instrument_of(detector: Detector) -> nexus_writer.Instrument:
    """Return an instrument with a few masked rows."""
    mask = np.ones((detector.n_panels, *detector.shape), bool)
    mask[-1, 3:5] = False
    return nexus_writer.Instrument(
        detector=detector, saturation_adu=60000, offset_adu=10, adu_per_photon=2.0, mask=mask
    )


def write(path, detector: Detector) -> nexus_writer.Stills:
    """Write a file of random frames, and return what is in it."""
    stills = stills_of(detector)
    nexus_writer.write(path, stills, instrument_of(detector))
    return stills


THICK = one_panel()._replace(thickness_mm=0.5, attenuation_mm=0.3, parallax_mm=0.3)
"""A sensor at whose depth spots lie."""


@pytest.mark.parametrize("compression", ["bitshuffle-lz4", "gzip"])
@pytest.mark.parametrize(
    "detector", [one_panel(), tilted_panels(), THICK], ids=["one", "tilted", "thick"]
)
def test_what_is_written_comes_back(tmp_path, detector, compression):
    stills = stills_of(detector)
    instrument = instrument_of(detector)
    nexus_writer.write(tmp_path / "a.nxs", stills, instrument, compression=compression)
    with closing(NexusFile(tmp_path / "a.nxs")) as f:
        assert f.n_frames == 3
        for i in range(3):
            assert np.array_equal(f.frame(i), stills.images[i])
            assert np.allclose(f.spectrum(i).energies_ev, ENERGIES, rtol=1e-15)
            assert np.array_equal(f.spectrum(i).photons, stills.photons[i])
        for name in ("origin_mm", "fast", "slow"):
            assert np.allclose(getattr(f.detector, name), getattr(detector, name), atol=1e-12)
        assert f.detector[3:] == detector[3:]
        assert np.array_equal(f.mask, instrument.mask)
        assert f.trusted_range == (-100, 60000)
        assert f.pedestal == (10, 2)
        assert np.array_equal(f.shot_ids, stills.shot_ids)


def test_the_sensor_of_another_program_has_its_parallax(tmp_path):
    """Silicon at 7.08 keV: μ/ρ of 91.7 cm²/g between the 147.0 at 6 and 64.68 at 8 keV of NIST.
    None for a material that is not known, without a thickness, or with that of a surface.
    """

    def parallax_of(material: str, thickness: float, unit: str) -> float | None:
        path = tmp_path / "a.nxs"
        write(path, one_panel())
        with h5py.File(path, "a") as f:
            sensor = f["entry/instrument/detector"]
            for name in ("sensor_thickness", "sensor_material"):
                del sensor[name]
            sensor["sensor_material"] = material
            sensor["sensor_thickness"] = thickness
            sensor["sensor_thickness"].attrs["units"] = unit
        return geometry_of(path).parallax_mm

    (length_mm,) = {parallax_of("Si", 320.0, "um"), parallax_of("Silicon", 0.32e-3, "m")}
    assert length_mm == pytest.approx(10 / (91.7 * 2.33), rel=0.03)
    assert parallax_of("CdTe", 0.75, "mm") < length_mm
    assert parallax_of("Gd2O2S", 0.03, "mm") is None
    assert parallax_of("Si", 0.0, "mm") is None
    assert parallax_of("Si", 0.001, "mm") is None


def test_same_arguments_give_the_same_bytes(tmp_path):
    for name in ("a.nxs", "b.nxs"):
        write(tmp_path / name, one_panel())
    assert (tmp_path / "a.nxs").read_bytes() == (tmp_path / "b.nxs").read_bytes()


@pytest.mark.parametrize("compression", ["bitshuffle-lz4", "gzip"])
def test_corrupt_frame_fails_alone(tmp_path, compression):
    stills = stills_of(tilted_panels())._replace(corrupt=[1])
    instrument = instrument_of(tilted_panels())
    nexus_writer.write(tmp_path / "a.nxs", stills, instrument, compression=compression)
    with closing(NexusFile(tmp_path / "a.nxs")) as f:
        assert np.array_equal(f.frame(0), stills.images[0])
        with pytest.raises(OSError):
            f.frame(1)
        assert np.array_equal(f.frame(2), stills.images[2])


def test_too_few_frames_leave_no_file(tmp_path):
    stills = stills_of(one_panel())
    stills = stills._replace(images=stills.images[:2])
    with pytest.raises(ValueError):
        nexus_writer.write(tmp_path / "a.nxs", stills, instrument_of(one_panel()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("detector", [one_panel(), tilted_panels()], ids=["one", "tilted"])
def test_nxmx_reads_the_same(tmp_path, detector):
    """nxmx (the reader dxtbx is built on): wavelength, modules, panel geometry, mask, trusted
    range.
    """
    stills = write(tmp_path / "a.nxs", detector)
    mask = instrument_of(detector).mask
    with h5py.File(tmp_path / "a.nxs") as f:
        entry = nxmx.NXmx(f).entries[0]
        beam = entry.instruments[0].beams[0]
        sensor = entry.instruments[0].detectors[0]
        mean = stills.photons @ ENERGIES / stills.photons.sum(1)
        wavelength_ang = beam.incident_wavelength.to("angstrom").magnitude
        assert np.allclose(wavelength_ang, wavelength(mean), rtol=1e-12)
        assert isinstance(beam["incident_wavelength"].attrs["variant"], str)
        assert (sensor.underload_value, sensor.saturation_value) == (-100, 60000)
        assert np.array_equal(sensor.pixel_mask[()].reshape(mask.shape) == 0, mask)
        assert entry.samples[0].depends_on is None
        assert len(sensor.modules) == detector.n_panels
        for panel, module in enumerate(sensor.modules):
            assert list(module.data_size) == list(detector.shape)
            assert list(module.data_origin) == [panel * detector.shape[0], 0]

            fast = module.fast_pixel_direction
            slow = module.slow_pixel_direction
            chain = nxmx.get_dependency_chain(fast.depends_on)
            origin = nxmx.get_cumulative_transformation(chain)[0, :3, 3]
            to_lab = np.diag([-1, 1, -1])
            assert np.allclose(to_lab @ origin, detector.origin_mm[panel], atol=1e-12)
            assert np.allclose(to_lab @ fast.vector, detector.fast[panel], atol=1e-12)
            assert np.allclose(to_lab @ slow.vector, detector.slow[panel], atol=1e-12)
            assert np.isclose(fast[()].to("mm").magnitude[0], detector.pixel_mm)


BY_DIALS = """
import json, sys
from dxtbx.model.experiment_list import ExperimentListFactory
experiments = ExperimentListFactory.from_filenames([sys.argv[1]])
first = experiments[0]
vectors = [[p.get_origin(), p.get_fast_axis(), p.get_slow_axis()] for p in first.detector]
images = [[list(p.as_1d()) for p in one.imageset.get_raw_data(0)] for one in experiments]
masks = [list(p.as_1d()) for p in first.imageset.get_mask(0)]
wavelengths = [one.beam.get_wavelength() for one in experiments]
print(json.dumps([vectors, images, masks, wavelengths]))
"""
"""What DIALS reads of a file: panels, pixels, mask and wavelengths."""


@pytest.mark.chain
@pytest.mark.parametrize("compression", ["gzip", "bitshuffle-lz4"])
@pytest.mark.parametrize("detector", [one_panel(), tilted_panels()], ids=["one", "tilted"])
def test_dials_reads_the_same(tmp_path, detector, compression, monkeypatch):
    """Pixels compressed with bitshuffle by the plugin that `spreadflow validate` names."""
    program = shutil.which("dxtbx.python")
    if program is None:
        pytest.skip("no dxtbx.python on PATH, as DIALS has it")
    monkeypatch.setenv("HDF5_PLUGIN_PATH", hdf5plugin.PLUGIN_PATH)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    path = tmp_path / "a.nxs"
    stills, instrument = stills_of(detector), instrument_of(detector)
    nexus_writer.write(path, stills, instrument, compression=compression)
    call = [program, "-c", BY_DIALS, str(path)]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    vectors, images, masks, wavelengths = json.loads(done.stdout.splitlines()[-1])
    for number, name in enumerate(("origin_mm", "fast", "slow")):
        own = getattr(detector, name)
        assert np.allclose(np.array(vectors)[:, number], own, atol=1e-9), name
    shape = (detector.n_panels, *detector.shape)
    assert np.array_equal(np.array(images).reshape(-1, *shape), stills.images)
    assert np.array_equal(np.array(masks).reshape(shape), instrument.mask)
    means = stills.photons @ ENERGIES / stills.photons.sum(axis=1)
    assert np.allclose(wavelengths, wavelength(means), rtol=1e-9)


def test_nanobragg_file_has_the_geometry_of_its_truth(shared_data):
    truth = json.loads((shared_data / "nanobragg_c2" / "truth.json").read_text())
    path = shared_data / "nanobragg_c2" / "stills.nxs"
    with closing(NexusFile(path)) as file:
        detector = file.detector
        mask = file.mask

    assert np.allclose(detector.origin_mm, [truth["metadata_panel_origin_mm"]], atol=1e-12)
    assert np.array_equal(detector.fast, [[1, 0, 0]])
    assert np.array_equal(detector.slow, [[0, -1, 0]])
    assert (detector.pixel_mm, detector.shape) == (truth["pixel_size_mm"], (1920, 1920))

    energies, photons = spectra_of(path)
    assert np.allclose(energies, truth["channel_energies_eV"], rtol=1e-12)
    assert np.allclose(
        photons.sum(axis=1), [i["total_photons"] for i in truth["images"]], rtol=1e-9
    )

    mean = (energies * photons).sum(axis=1) / photons.sum(axis=1)
    assert np.allclose(mean, [i["mean_energy_eV"] for i in truth["images"]], rtol=1e-9)
    assert mask.mean() == 1


def _rewire(path, detector: Detector) -> None:
    """Turn the chain of a one-panel file into an equivalent one with a rotation, other units and
    relative paths.
    """
    with h5py.File(path, "r+") as f:
        d = f["entry/instrument/detector"]
        head = d["transformations/AXIS_D0"]
        rail = d["transformations/AXIS_RAIL"]
        rail[...] = [rail[0] / 1000]
        rail.attrs["units"] = "m"
        head[...] = [np.pi / 2]
        head.attrs.update(units="rad", depends_on="AXIS_RAIL", vector=[0, 0, 2.0])
        for name in ("module_offset", "fast_pixel_direction", "slow_pixel_direction"):
            item = d["module"][name]
            back = from_vector(np.array([0, 0, -np.pi / 2]))
            item.attrs["vector"] = back @ item.attrs["vector"]
            item.attrs["offset"] = back @ item.attrs["offset"]
        d["module/module_offset"].attrs.update(
            offset=d["module/module_offset"].attrs["offset"] / 1000, offset_units="m"
        )
        d["module/fast_pixel_direction"].attrs["depends_on"] = "module_offset"
        d["module/fast_pixel_direction"].attrs["units"] = np.bytes_("mm")


def test_any_chain_of_transformations(tmp_path):
    write(tmp_path / "a.nxs", one_panel())
    _rewire(tmp_path / "a.nxs", one_panel())
    read = geometry_of(tmp_path / "a.nxs")
    expected = one_panel()
    for name in ("origin_mm", "fast", "slow", "pixel_mm"):
        assert np.allclose(getattr(read, name), getattr(expected, name), atol=1e-12)


def test_modules_that_are_pieces_of_one_array(tmp_path):
    """Two-element data_origin: panels lie side by side in a (n, slow, fast) stack."""
    write(tmp_path / "a.nxs", one_panel())
    with h5py.File(tmp_path / "a.nxs", "r+") as f:
        d = f["entry/instrument/detector"]
        d.copy("module", "module_b")
        for name, corner in (("module", [0, 0]), ("module_b", [0, 13])):
            d[name]["data_origin"][...] = corner
            d[name]["data_size"][...] = [24, 13]
        d["module_b/module_offset"].attrs["offset"] -= [13 * 0.177, 0, 0]
        d["module_b/fast_pixel_direction"].attrs["depends_on"] = "module_offset"
        whole = f["entry/data/data"][0]
    with closing(NexusFile(tmp_path / "a.nxs")) as f:
        assert np.array_equal(f.frame(0), [whole[:, :13], whole[:, 13:]])
        shift = f.detector.origin_mm[1] - f.detector.origin_mm[0]
        assert np.allclose(shift, [13 * 0.177, 0, 0], atol=1e-12)
        assert f.mask.shape == (2, 24, 13)


@pytest.mark.parametrize("shape", ["shared", "per shot", "none", "one for all"])
def test_spectra_of_every_layout(tmp_path, shape):
    stills = write(tmp_path / "a.nxs", one_panel())
    name = "incident_wavelength_1Dspectrum"
    expected = np.tile(ENERGIES, (3, 1))
    with h5py.File(tmp_path / "a.nxs", "r+") as f:
        beam = f["entry/instrument/beam"]
        # falling energies, another unit, the deprecated name of the weights
        if shape == "per shot":
            expected = ENERGIES + np.array([[0.0], [1], [2]])
            del beam[name], beam[f"{name}_weights"]
            beam[name] = wavelength(expected) / 10
            beam[name].attrs["units"] = "nm"
        if shape in ("none", "one for all"):
            del beam[name], beam[f"{name}_weight"], beam[f"{name}_weights"]
            expected = energy(beam["incident_wavelength"][()])[:, None]
        if shape == "one for all":
            del beam["incident_wavelength"]
            beam["incident_wavelength"] = 1.75
            beam["incident_wavelength"].attrs["units"] = "angstrom"
            expected = np.full((3, 1), energy(1.75))
    energies, photons = spectra_of(tmp_path / "a.nxs")

    assert np.allclose(energies, expected, rtol=1e-13)
    assert np.array_equal(photons, stills.photons if expected.shape[1] > 1 else np.ones((3, 1)))


def _not_nxmx(f):
    del f["entry/definition"]


def _no_modules(f):
    del f["entry/instrument/detector/module"]


def _circle(f):
    f["entry/instrument/detector/transformations/AXIS_RAIL"].attrs["depends_on"] = "AXIS_D0"


def _ampere(f):
    f["entry/instrument/detector/module/fast_pixel_direction"].attrs["units"] = "A"


def _upstream(f):
    f["entry/instrument/detector/transformations/AXIS_RAIL"][...] = -141.7


def _other_mask(f):
    del f["entry/instrument/detector/pixel_mask"]
    f["entry/instrument/detector/pixel_mask"] = np.zeros((2, 24, 26))


def _no_pixels(f):
    f["entry/instrument/detector/module/data_size"][...] = [0, 26]


def _dangling(f):
    f["entry/instrument/detector/module/module_offset"].attrs["depends_on"] = "/nowhere"


@pytest.mark.parametrize(
    "spoil",
    [_not_nxmx, _no_modules, _circle, _ampere, _upstream, _other_mask, _no_pixels, _dangling],
)
def test_spoiled_header_is_one_clear_error(tmp_path, spoil):
    write(tmp_path / "a.nxs", one_panel())
    with h5py.File(tmp_path / "a.nxs", "r+") as f:
        spoil(f)
    with pytest.raises(FileError, match=r"a\.nxs"):
        geometry_of(tmp_path / "a.nxs")


def test_truncated_or_foreign_files_are_one_clear_error(tmp_path):
    write(tmp_path / "a.nxs", one_panel())
    whole = (tmp_path / "a.nxs").read_bytes()
    (tmp_path / "half.nxs").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nxs").write_text("not HDF5")
    for name in ("half.nxs", "text.nxs", "missing.nxs"):
        with pytest.raises(FileError, match=name):
            geometry_of(tmp_path / name)

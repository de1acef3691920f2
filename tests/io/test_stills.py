"""What is written for DIALS, byte by byte."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io.lattices import stills
from spreadflow.io.lattices.indexed import IndexedLattice, IndexedReflections
from spreadflow.io.lattices.pairs import Pair
from spreadflow.models import Detector
from spreadflow.physics import parallax

DETECTOR = Detector(
    origin_mm=np.array([[-1.0, 2.0, -100.0]]),
    fast=np.array([[1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0]]),
    pixel_mm=0.5,
    shape=(6, 8),
)

LATTICE = IndexedLattice(
    identifier="000000000000002a-0",
    image=Path("/data/a.nxs"),
    frame=3,
    A=np.diag([1 / 40, 1 / 50, 1 / 60]),
    hall=" P 2 2ab",
    wavelength=2.0,
    detector=DETECTOR,
    reflections=IndexedReflections(
        hkl=np.array([[1, -2, 3], [0, 4, -5]]),
        panel=np.array([0, 0]),
        fast_obs=np.array([2.5, np.nan]),
        slow_obs=np.array([3.0, np.nan]),
        variance_obs=np.array([[0.25, 0.125], [np.nan, np.nan]]),
        fast=np.array([2.0, 6.0]),
        slow=np.array([4.0, 4.0]),
        intensity=np.array([100.0, -2.0]),
        sigma=np.array([3.0, 2.0], np.float32),
        background=np.array([7.0, 8.0]),
        d=np.array([9.0, 10.0]),
        delta_psi_rad=np.array([0.001, -0.002]),
        bbox=np.array([[1, 4, 2, 5], [5, 8, 3, 6]]),
    ),
    polarization=0.5,
)

OTHER = LATTICE._replace(
    identifier="000000000000002a-1",
    reflections=LATTICE.reflections._replace(
        **{
            name: column[:0] if column is not None else None
            for name, column in LATTICE.reflections._asdict().items()
        }
    ),
)
"""A second lattice of the shot, without reflections."""

DIRECTION = (2.0 * 0.5 - 1.0, 2.0 - 4.0 * 0.5, -100.0), (6.0 * 0.5 - 1.0, 2.0 - 4.0 * 0.5, -100.0)
"""From the sample to the predicted centroids, mm: the first is where the beam meets the panel."""
LENGTH = (100.0, (4.0 + 100.0**2) ** 0.5)
S1 = [x / length / 2.0 for row, length in zip(DIRECTION, LENGTH, strict=True) for x in row]

ROWS = {
    "id": ("int", "2i", (0, 0)),
    "panel": ("std::size_t", "2Q", (0, 0)),
    "miller_index": ("cctbx::miller::index<>", "6i", (1, -2, 3, 0, 4, -5)),
    "s1": ("vec3<double>", "6d", S1),
    "xyzobs.px.value": ("vec3<double>", "6d", (2.5, 3.0, 0.0, 6.0, 4.0, 0.0)),
    "xyzobs.px.variance": ("vec3<double>", "6d", (0.25, 0.125, 0.0, 1 / 12, 1 / 12, 0.0)),
    "xyzobs.mm.value": ("vec3<double>", "6d", (1.25, 1.5, 0.0, 3.0, 2.0, 0.0)),
    "xyzobs.mm.variance": ("vec3<double>", "6d", (0.0625, 0.03125, 0.0, 1 / 48, 1 / 48, 0.0)),
    "xyzcal.px": ("vec3<double>", "6d", (2.0, 4.0, 0.0, 6.0, 4.0, 0.0)),
    "xyzcal.mm": ("vec3<double>", "6d", (1.0, 2.0, 0.0, 3.0, 2.0, 0.0)),
    "bbox": ("int6", "12i", (1, 4, 2, 5, 0, 1, 5, 8, 3, 6, 0, 1)),
    "delpsical.rad": ("double", "2d", (0.001, -0.002)),
    "d": ("double", "2d", (9.0, 10.0)),
    "intensity.sum.value": ("double", "2d", (100.0, -2.0)),
    "intensity.sum.variance": ("double", "2d", (9.0, 4.0)),
    "background.mean": ("double", "2d", (7.0, 8.0)),
    "is_strong": ("bool", "2?", (True, False)),
    "flags": ("std::size_t", "2Q", (1 + 2 + 4 + 32 + 256, 1 + 256)),
}
"""Column → type, format of its rows, and these."""


def _text(text: str) -> bytes:
    size = len(text)
    return (bytes([0xA0 + size]) if size < 32 else bytes([0xD9, size])) + text.encode()


def _golden() -> bytes:
    """Return the table of the two lattices: 0x93 an array of three, 0x83 a map of three, 0xde a
    map whose number of keys takes two bytes, 0xc6 bytes whose number takes four.
    """
    columns = b""
    for name, (kind, form, rows) in ROWS.items():
        content = struct.pack(f"<{form}", *rows)
        size = struct.pack(">I", len(content))
        columns += _text(name) + b"\x92" + _text(kind) + b"\x92\x02\xc6" + size + content
    identifiers = b"\x82\x00" + _text(LATTICE.identifier) + b"\x01" + _text(OTHER.identifier)
    return (
        b"\x93"
        + _text("dials::af::reflection_table")
        + b"\x01\x83"
        + _text("identifiers")
        + identifiers
        + _text("nrows")
        + b"\x02"
        + _text("data")
        + b"\xde"
        + struct.pack(">H", len(ROWS))
        + columns
    )


def test_the_reflections_are_these_bytes(tmp_path):
    paths = stills.write(tmp_path / "my.trial", [LATTICE, OTHER])
    assert paths == [tmp_path / "my.trial.expt", tmp_path / "my.trial.refl"]
    assert paths[1].read_bytes() == _golden()


def test_the_experiments_are_this_text(tmp_path):
    """The lattices of a shot share its beam and image, and all the detector."""
    expt, _ = stills.write(tmp_path / "a", [LATTICE, OTHER])
    shared = '"beam": 0, "detector": 0, "crystal": {0}, "imageset": 0}}'
    experiments = ", ".join(
        f'{{"__id__": "Experiment", "identifier": "000000000000002a-{n}", {shared.format(n)}'
        for n in range(2)
    )
    images = (
        '{"__id__": "ImageSet", "images": ["/data/a.nxs"], "single_file_indices": [3], '
        '"mask": "", "gain": "", "pedestal": "", "dx": "", "dy": "", "params": {}}'
    )
    text = expt.read_text()
    assert text.startswith(
        f'{{"__id__": "ExperimentList", "experiment": [{experiments}], "imageset": [{images}], '
        '"beam": [{"__id__": "monochromatic", "direction": [0.0, 0.0, 1.0], "wavelength": 2.0, '
        '"divergence": 0.0, "sigma_divergence": 0.0, "polarization_normal": [0.0, 1.0, 0.0], '
        '"polarization_fraction": 0.75, "flux": 0.0, "transmission": 1.0}], "detector": [{"panels":'
    )
    crystal = (
        '{"__id__": "crystal", "real_space_a": [40.0, 0.0, 0.0], "real_space_b": [0.0, 50.0, 0.0], '
        '"real_space_c": [0.0, 0.0, 60.0], "space_group_hall_symbol": " P 2 2ab"}'
    )
    assert text.endswith(
        f'"goniometer": [], "scan": [], "crystal": [{crystal}, {crystal}], "profile": [], '
        '"scaling_model": []}\n'
    )
    assert len(json.loads(text)["detector"]) == 1


def test_what_is_written_is_read_as_the_same(tmp_path):
    pair = Pair(*stills.write(tmp_path / "a", [LATTICE, OTHER]))
    assert len(pair) == 2
    for number, lattice in enumerate((LATTICE, OTHER)):
        read = pair[number]
        for name in ("identifier", "image", "frame", "hall", "wavelength"):
            assert getattr(read, name) == getattr(lattice, name), name
        np.testing.assert_allclose(read.A, lattice.A, rtol=1e-15, atol=0)
        for name in ("hkl", "panel", "fast", "slow", "intensity", "sigma", "background"):
            expected = getattr(lattice.reflections, name)
            np.testing.assert_array_equal(getattr(read.reflections, name), expected, err_msg=name)


def test_each_detector_has_the_material_of_its_own_sensor(tmp_path):
    thick = LATTICE._replace(detector=DETECTOR._replace(thickness_mm=0.3), material="CdTe")
    expt, _ = stills.write(tmp_path / "a", [LATTICE, thick, OTHER])
    tree = json.loads(expt.read_text())
    assert [one["panels"][0]["material"] for one in tree["detector"]] == ["", "CdTe"]
    assert [one["detector"] for one in tree["experiment"]] == [0, 1, 0]


def test_columns_that_lattices_lack_are_left_out(tmp_path):
    """Those of stage 1 have no intensity: nothing is said to be integrated."""
    bare = dict.fromkeys(["variance_obs", "intensity", "sigma", "background", "bbox"])
    lattice = LATTICE._replace(reflections=LATTICE.reflections._replace(**bare))
    pair = Pair(*stills.write(tmp_path / "a", [lattice]))
    assert pair[0].reflections.intensity is None
    table = (tmp_path / "a.refl").read_bytes()
    assert b"bbox" not in table and b"background" not in table
    assert table.endswith(struct.pack("<2Q", 1 + 2 + 4 + 32, 1))


def test_millimetres_are_on_the_surface_of_a_thick_sensor(tmp_path):
    """A ray at tan α = 2/100 is recorded farther out by the depth times tan α."""
    thick = DETECTOR._replace(thickness_mm=0.5, attenuation_mm=0.2, parallax_mm=0.2)
    lattice = LATTICE._replace(detector=thick)
    stills.write(tmp_path / "a", [lattice])
    table = stills.reflections.read(tmp_path / "a.refl", ("xyzcal.mm", "xyzcal.px"))
    slope = 2.0 / 100.0
    depth = float(parallax.depth_mm(thick, np.array(1 / (1 + slope**2) ** 0.5)))
    # the ray that is recorded 2 mm from the beam meets the surface nearer to it
    expected = 1.0 + 2.0 * 100.0 / (100.0 + depth)
    np.testing.assert_allclose(table.columns["xyzcal.mm"][1, 0], expected, atol=1e-5)
    np.testing.assert_allclose(table.columns["xyzcal.mm"][0], [1.0, 2.0, 0.0], atol=1e-12)


def test_no_lattice_is_an_error(tmp_path):
    with pytest.raises(FileError, match="lattices to be written"):
        stills.write(tmp_path / "a", [])
    assert not list(tmp_path.iterdir())

"""CrystFEL streams that we write: the text of a small one, and what is read of it again."""

import io
from pathlib import Path

import gemmi
import numpy as np
import pytest

from spreadflow.io.lattices.crystfel import Stream
from spreadflow.io.lattices.indexed import IndexedLattice, IndexedReflections
from spreadflow.io.lattices.stated import ShotName, StatedLattice, StatedShot
from spreadflow.io.lattices.stream_writer import TargetCell, write_header, write_shot
from spreadflow.models import Detector, Spots
from spreadflow.physics import symmetry, unit_cell
from spreadflow.units import wavelength

DETECTOR = Detector(
    origin_mm=np.array([[-2.0, 3.0, -100.0], [2.5, 3.0, -100.5]]),
    fast=np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]),
    pixel_mm=0.1,
    shape=(60, 40),
)
ENERGY_EV = 7120.25


def reflections(**columns) -> IndexedReflections:
    return IndexedReflections(
        **{
            "hkl": np.array([[1, -2, 3], [0, 4, -11]], np.int32),
            "panel": np.array([0, 1], np.int32),
            "fast": np.array([1 / 3, 20.25]),
            "slow": np.array([59.5, 2 / 7]),
            "intensity": np.array([1e5 / 3, -0.1], np.float32),
            "sigma": np.array([200.5, 1 / 3], np.float32),
            "background": np.array([2.5, 0.0], np.float32),
        }
        | columns
    )


def shot(space_group: str = "C 1 2 1", cell: tuple = (60, 50, 40, 90, 100, 90), **columns):
    basis = gemmi.UnitCell(*cell).frac.mat
    lattice = IndexedLattice(
        identifier="",
        image=Path("/data/run 1/x.nxs"),
        frame=3,
        A=np.array(basis.tolist()).T + 1e-9 / 3,
        hall=symmetry.group(space_group).hall,
        wavelength=float(wavelength(ENERGY_EV)),
        detector=DETECTOR,
        reflections=reflections(**columns),
    )
    stated = StatedLattice(
        line=1,
        lattice=lattice,
        is_saturated=np.zeros(2, bool),
        d_min=2.5,
        own={"eta_rad": np.array([0.001 / 3]), "domain_ang": np.array([3000.0])},
        own_reflections={
            "partiality": np.array([0.1, 1 / 3], np.float32),
            "slopes": np.array([[1, 2, 3], [4, 5, 1 / 7]], np.float32),
        },
    )
    spots = Spots(
        panel=np.array([1], np.int32),
        fast=np.array([20.0]),
        slow=np.array([0.5]),
        variance_fast=np.array([0.25], np.float32),
        variance_slow=np.array([0.5], np.float32),
        intensity=np.array([50.0], np.float32),
        sigma=np.array([7.0], np.float32),
        n_pixels=np.array([4], np.int32),
    )
    return StatedShot(
        energy_ev=ENERGY_EV,
        bandwidth=0.002,
        is_hit=True,
        spots=spots,
        lattices=[stated],
        own={"pulse_photons": np.array([1e12])},
        own_spots={"n_pixels": np.array([4], np.int32)},
    )


NAME = ShotName("/data/run 1/x.nxs", 3, "", 1)


def written(*shots: StatedShot, space_group: str = "C 1 2 1") -> str:
    file = io.StringIO()
    target = TargetCell(space_group, [60.0, 50.0, 40.0, 90.0, 100.0, 90.0])
    write_header(file, DETECTOR, ENERGY_EV, target)
    for number, one in enumerate(shots, start=1):
        write_shot(file, number, NAME, one, DETECTOR, space_group)
    return file.getvalue()


def test_the_text_is_what_crystfel_describes():
    lines = written(shot()).splitlines()
    assert lines[0] == "CrystFEL stream format 2.3"
    begin = lines.index("----- Begin chunk -----")
    assert lines[begin:] == [
        "----- Begin chunk -----",
        "Image filename: /data/run 1/x.nxs",
        "Event: //3",
        "Image serial number: 1",
        "hit = 1",
        "indexed_by = file-nolatt-nocell",
        "photon_energy_eV = 7120.25",
        "beam_divergence = 0.00e+00 rad",
        "beam_bandwidth = 8.4932180028801912e-04 (fraction)",
        "spreadflow/pulse_photons = 1000000000000",
        "average_camera_length = 0.100250000 m",
        "num_peaks = 1",
        "num_saturated_peaks = 0",
        "peak_resolution = 0.320353 nm^-1 or 31.215614 A",
        "Peaks from peak search",
        "  fs/px   ss/px (1/d)/nm^-1   Intensity  Panel n_pixels",
        "20 0.5 0.32035250314677499 50 p1 4",
        "End of peak list",
        "--- Begin crystal",
        "Cell parameters 5.999999894 4.999999917 3.999999968 nm, "
        "90.000001340 100.000001668 90.000001968 deg",
        "astar = -0.16666666999999999 +0.00000000333333333 -0.02938783345141082 nm^-1",
        "bstar = -0.00000000333333333 +0.20000000333333331 -0.00000000333333333 nm^-1",
        "cstar = -0.00000000333333333 +0.00000000333333333 -0.25385665630476961 nm^-1",
        "lattice_type = monoclinic",
        "centering = C",
        "unique_axis = b",
        "profile_radius = 0.00323 nm^-1",
        "spreadflow/eta_rad = 0.00033333333333333332",
        "spreadflow/domain_ang = 3000",
        "diffraction_resolution_limit = 4.00000 nm^-1 or 2.50000 A",
        "num_reflections = 2",
        "num_saturated_reflections = 0",
        "num_implausible_reflections = 0",
        "Reflections measured after indexing",
        "   h    k    l          I   sigma(I)       peak background  fs/px  ss/px panel "
        "partiality slopes_0 slopes_1 slopes_2",
        "1 -2 3 33333.332 200.5 0 2.5 0.33333333333333331 59.5 p0 0.100000001 1 2 3",
        "0 4 -11 -0.100000001 0.333333343 0 0 20.25 0.2857142857142857 p1 0.333333343 4 5 "
        "0.142857149",
        "End of reflections",
        "--- End crystal",
        "----- End chunk -----",
    ]
    assert max(map(len, lines)) < 1023, "the longest line that CrystFEL reads"


def test_what_is_written_is_read_bit_by_bit(tmp_path):
    path = tmp_path / "x.stream"
    path.write_text(written(shot(), shot()._replace(bandwidth=None, lattices=[], is_hit=False)))
    stream = Stream(path)
    assert stream.names[0] == NAME
    expected = shot()
    found = stream.read(0)
    assert found.energy_ev == ENERGY_EV
    assert found.bandwidth == pytest.approx(0.002, rel=1e-15)
    (stated,), (wanted,) = found.lattices, expected.lattices
    np.testing.assert_allclose(stated.lattice.A, wanted.lattice.A, rtol=1e-15, atol=1e-18)
    assert stated.d_min == pytest.approx(2.5)
    for name in ("hkl", "panel", "fast", "slow", "intensity", "sigma", "background"):
        column = getattr(stated.lattice.reflections, name)
        other = getattr(wanted.lattice.reflections, name)
        np.testing.assert_array_equal(column.astype(other.dtype), other, err_msg=name)
    for own, others in (
        (stated.own, wanted.own),
        (stated.own_reflections, wanted.own_reflections),
        (found.own, expected.own),
        (found.own_spots, expected.own_spots),
    ):
        assert own.keys() == others.keys()
        for name, column in others.items():
            values = own[name].reshape(column.shape).astype(column.dtype)
            np.testing.assert_array_equal(values, column)

    blank = stream.read(1)
    assert (blank.bandwidth, blank.is_hit, blank.lattices) == (None, False, [])


def test_a_lattice_without_intensities_has_no_table(tmp_path):
    path = tmp_path / "x.stream"
    path.write_text(written(shot(intensity=None, sigma=None)))
    assert "No integrated reflections.\n--- End crystal" in path.read_text()
    (stated,) = Stream(path).read(0).lattices
    assert len(stated.lattice.reflections.hkl) == 0


@pytest.mark.parametrize(
    ("group", "cell", "lines"),
    [
        ("P 1", (40, 50, 60, 80, 95, 100), ("triclinic", "P", "*")),
        ("P 1 1 21", (40, 50, 60, 90, 90, 100), ("monoclinic", "P", "c")),
        ("I 2 2 2", (40, 50, 60, 90, 90, 90), ("orthorhombic", "I", "*")),
        ("P 41 21 2", (60, 60, 90, 90, 90, 90), ("tetragonal", "P", "c")),
        ("P 31 2 1", (60, 60, 90, 90, 90, 120), ("hexagonal", "P", "c")),
        ("P 61 2 2", (60, 60, 90, 90, 90, 120), ("hexagonal", "P", "c")),
        ("H 3", (60, 60, 90, 90, 90, 120), ("hexagonal", "H", "c")),
        ("R 3:R", (60, 60, 60, 80, 80, 80), ("rhombohedral", "R", "*")),
        ("F 2 3", (90, 90, 90, 90, 90, 90), ("cubic", "F", "*")),
    ],
)
def test_the_symmetry_is_said_in_crystfels_words(tmp_path, group, cell, lines):
    """And read back, the centring is that of the group."""
    space_group = symmetry.group(group).xhm()
    text = written(shot(space_group, cell), space_group=space_group)
    names = ("lattice_type", "centering", "unique_axis")
    block = "\n".join(f"{name} = {word}" for name, word in zip(names, lines, strict=True))
    assert text.count(block) == 2, "of the target and of the crystal"
    path = tmp_path / "x.stream"
    path.write_text(text)
    (stated,) = Stream(path).read(0).lattices
    centring = symmetry.centring(gemmi.symops_from_hall(stated.lattice.hall))
    ours = symmetry.centring(symmetry.group(group).operations())
    np.testing.assert_array_equal(centring, ours)
    np.testing.assert_allclose(
        unit_cell.degrees(unit_cell.cell_of(stated.lattice.A)), cell, rtol=1e-5
    )

"""Lattices that other programs indexed: which symmetry and which axes are the configured ones."""

from pathlib import Path

import gemmi
import numpy as np
import pytest

from spreadflow.config import IndexSection
from spreadflow.errors import AdoptOutcome
from spreadflow.io.lattices.indexed import IndexedLattice, IndexedReflections
from spreadflow.io.lattices.shot_finder import Rule
from spreadflow.models import Detector
from spreadflow.physics import geometry, symmetry, unit_cell
from spreadflow.physics.rotation import from_vector
from spreadflow.recipes.pair import Line, judge, unmistakable

WAVELENGTH = 1.3
DETECTOR = Detector(
    origin_mm=np.array([[-100.0, 100.0, -120.0]]),
    fast=np.array([[1.0, 0.0, 0.0]]),
    slow=np.array([[0.0, -1.0, 0.0]]),
    pixel_mm=0.2,
    shape=(1000, 1000),
)
TURN = from_vector(np.array([0.4, -0.9, 0.3]))

MONOCLINIC = ("C 1 2 1", [67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
HEXAGONAL = ("P 61 2 2", [92.9, 92.9, 130.3, 90.0, 90.0, 120.0])
ORTHORHOMBIC = ("P 21 21 2", [42.0, 60.0, 75.0, 90.0, 90.0, 90.0])
RHOMBOHEDRAL = ("R 3 :H", [80.0, 80.0, 60.0, 90.0, 90.0, 120.0])

SAME = np.eye(3)
BODY = np.array([[0, 0, -1], [0, 1, 0], [1, 0, -1]])
"""Columns: a' = c, b' = b, c' = -a - c, which make I 1 2 1 of C 1 2 1."""
OTHER_C = np.array([[-1, 0, -1], [0, -1, 0], [0, 0, 1]])
"""Columns: a' = -a, b' = -b, c' = c - a: another cell that has C 1 2 1 too."""
HALVED = np.array([[0.5, 0.5, 0], [0.5, -0.5, 0], [0, 0, -1.0]])
"""Columns: (a + b)/2, (a - b)/2, -c, a primitive cell."""
OBVERSE = np.array([[2, -1, -1], [1, 1, -2], [1, 1, 1]]) / 3
"""Columns: the rhombohedral axes of a hexagonal cell, in its obverse setting."""
CYCLED = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
"""Columns: b, c, a."""
SKEW = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
"""Columns: a, a + b, c, on which hexagonal rotations are other matrices."""


def section(target: tuple) -> IndexSection:
    space_group, cell = target
    return IndexSection(space_group=space_group, cell=cell)


def indexed(target: tuple, P: np.ndarray, hall: str) -> tuple[IndexedLattice, np.ndarray]:
    """Return a lattice on axes (a' b' c') = (a b c) P and its A on the configured ones."""
    space_group, cell = target
    A = TURN @ unit_cell.reciprocal(unit_cell.radians(cell))
    hkl = np.array(list(np.ndindex(41, 41, 41))) - 20
    hkl = hkl[hkl.any(axis=1) & ~symmetry.is_centring_absent(hkl, space_group)]
    s1 = hkl @ A.T + geometry.S0 / WAVELENGTH
    hkl = hkl[np.abs(np.linalg.norm(s1, axis=1) * WAVELENGTH - 1.0) < 5e-4]
    panel, fast, slow = geometry.intersect(DETECTOR, hkl @ A.T + geometry.S0 / WAVELENGTH)
    on_panel = panel >= 0
    assert on_panel.sum() > 30
    lattice = IndexedLattice(
        identifier="",
        image=Path("a.nxs"),
        frame=0,
        A=A @ np.linalg.inv(P).T,
        hall=hall,
        wavelength=WAVELENGTH,
        detector=DETECTOR,
        reflections=IndexedReflections(
            hkl=(hkl[on_panel] @ P).round().astype(int),
            panel=panel[on_panel],
            fast_obs=fast[on_panel],
            slow_obs=slow[on_panel],
        ),
    )
    return lattice, A


def judged(target: tuple, P: np.ndarray, hall: str) -> tuple[Line, np.ndarray]:
    lattice, A = indexed(target, P, hall)
    line = Line(AdoptOutcome.ADOPTED, shot=0)
    return judge(line, lattice, DETECTOR, section(target)), A


@pytest.mark.parametrize(
    ("target", "hall"),
    [
        (MONOCLINIC, " C 2y"),
        (MONOCLINIC, "-C 2y"),
        (HEXAGONAL, " P 61 2 (x,y,z+5/12)"),
        (HEXAGONAL, "-P 6 2"),  # as DIALS has it where it refines candidates with known symmetry
        (HEXAGONAL, " P 65 2 (0 0 1)"),
        (ORTHORHOMBIC, "-P 2 2"),
        (RHOMBOHEDRAL, "-R 3"),
    ],
)
def test_the_laue_group_is_enough(target, hall):
    """A still knows nothing of screw axes and origins; A stays as it is."""
    line, A = judged(target, SAME, hall)
    assert (line.outcome, line.axes) == (AdoptOutcome.ADOPTED, "")
    np.testing.assert_array_equal(line.A, A)


@pytest.mark.parametrize(
    ("target", "P", "hall", "axes"),
    [
        (MONOCLINIC, BODY, " I 2y", "-h-l,k,h"),
        (MONOCLINIC, OTHER_C, " C 2y", None),
        (MONOCLINIC, HALVED, " C 2y (x+y,x-y,-z)", "h+k,h-k,-l"),
        (RHOMBOHEDRAL, OBVERSE, " P 3*", None),
        (ORTHORHOMBIC, CYCLED, " P 2ab 2a", "l,h,k"),
    ],
)
def test_another_setting_is_brought_to_the_configured_one(target, P, hall, axes):
    """Its A is the true one, or that of an equivalent, and its indices follow."""
    line, A = judged(target, P, hall)
    assert line.outcome == AdoptOutcome.ADOPTED
    assert symmetry.misorientation(line.A, A, target[0]) < 1e-9
    np.testing.assert_allclose(
        unit_cell.cell_of(line.A), unit_cell.radians(target[1]), rtol=1e-9, atol=0
    )
    lattice, _ = indexed(target, P, hall)
    operator = gemmi.Op(line.axes)
    brought = [operator.apply_to_hkl(one) for one in lattice.reflections.hkl.tolist()]
    q = lattice.reflections.hkl @ lattice.A.T
    np.testing.assert_allclose(np.array(brought) @ line.A.T, q, atol=1e-12)
    if axes is not None:
        same = gemmi.Op(axes)
        turned = [same.apply_to_hkl(one) for one in lattice.reflections.hkl.tolist()]
        of_axes, _ = symmetry.to_asu(np.array(turned), target[0])
        of_line, _ = symmetry.to_asu(np.array(brought), target[0])
        np.testing.assert_array_equal(of_axes, of_line)


@pytest.mark.parametrize(
    ("target", "P", "hall"),
    [
        (MONOCLINIC, SAME, " P 1"),
        (MONOCLINIC, SAME, " P 2y"),
        (MONOCLINIC, HALVED, " P 1"),
        (HEXAGONAL, SAME, "-P 6"),
        (HEXAGONAL, SAME, '-P 3 2"'),
        (HEXAGONAL, SKEW, "-P 6 2"),
        (RHOMBOHEDRAL, SAME, " P 3"),
        (ORTHORHOMBIC, SAME, " P 2y"),
    ],
)
def test_other_symmetry_is_refused_by_its_symbol(target, P, hall):
    line, _ = judged(target, P, hall)
    assert line.outcome in (AdoptOutcome.OTHER_GROUP, AdoptOutcome.OTHER_CELL)
    assert line.A is None
    assert line.why


def test_a_group_of_another_cell_is_of_another_cell():
    line, _ = judged(MONOCLINIC, SAME, " C 2y")
    wide = (MONOCLINIC[0], [75.0, *MONOCLINIC[1][1:]])
    lattice, _ = indexed(MONOCLINIC, SAME, " C 2y")
    line = judge(Line(AdoptOutcome.ADOPTED, shot=0), lattice, DETECTOR, section(wide))
    assert (line.outcome, line.A) == (AdoptOutcome.OTHER_CELL, None)
    assert line.why.startswith("67.20 59.80 47.20")


def images_of(*images: tuple[str, Rule]) -> list[AdoptOutcome]:
    """Return what becomes of lines with these images, found by these rules."""
    lines = [
        Line(AdoptOutcome.ADOPTED, shot=0, image=Path(image), rule=rule) for image, rule in images
    ]
    return [line.outcome for line in unmistakable(lines)]


ADOPTED, NO_SHOT = AdoptOutcome.ADOPTED, AdoptOutcome.NO_SHOT


@pytest.mark.parametrize(
    ("images", "outcomes"),
    [
        ([("/a/x.cbf", Rule.STEM), ("/a/x.cbf", Rule.STEM)], [ADOPTED] * 2),
        ([("/a/x.cbf", Rule.STEM), ("/b/x.cbf", Rule.STEM)], [NO_SHOT] * 2),
        ([("/a/x.cbf", Rule.STEM), ("/a/x.img", Rule.STEM)], [NO_SHOT] * 2),
        ([("/a/x.cbf", Rule.STEM), ("/run/x.nxs", Rule.PATH)], [NO_SHOT, ADOPTED]),
        ([("/a/x.nxs", Rule.NAME), ("/run/x.nxs", Rule.PATH)], [NO_SHOT, ADOPTED]),
        ([("/a/x.nxs", Rule.NAME), ("/a/x.cbf", Rule.STEM)], [ADOPTED, NO_SHOT]),
        ([("/a/x.nxs", Rule.NAME), ("/a/y.nxs", Rule.NAME)], [ADOPTED] * 2),
    ],
)
def test_a_name_that_files_in_several_places_have_is_none(images, outcomes):
    assert images_of(*images) == outcomes

"""The functions that JAX compiles for stages, each with arguments as a stage has them: those that
`device.py` times on the CPU and on devices, and that tests/physics/test_gpu.py compares.

Nothing is imported that needs more than NumPy, SciPy, JAX, Numba and gemmi.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from spreadflow.analysis import detector_moves
from spreadflow.analysis.correlation import jax_engine
from spreadflow.analysis.orientation_matrix import crystal_frame
from spreadflow.analysis.pixels import lattice_fit
from spreadflow.models import Crystal, Detector, Mosaic, Parameters, Pixels, Spectrum
from spreadflow.physics import (
    atom_sums,
    background,
    cloud_boxes,
    clouds,
    differentiable,
    exact,
    forward,
    geometry,
    layout,
    mosaic,
    noise,
    pair_tables,
    pixel_map,
    rotation,
    unit_cell,
)
from spreadflow.physics.padding import to_few_sizes
from spreadflow.physics.pair_tables import Pairs
from spreadflow.physics.structure_factors import CHUNK_ATOMS, CHUNK_HKL
from spreadflow.units import DEG

DOUBLE = 1e-9
"""Largest difference between two machines, of the largest number, where all is float64."""

SINGLE = 5e-6
"""The same where sums are float32; a product of TF32 is 100 times worse."""

COUNTS = 1e-5
"""Share of pixels whose counts or ADU may differ, by one: those within the last bits of a bound."""

SPACE_GROUP = "C 1 2 1"
CELL = unit_cell.radians([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])
DISTANCE_MM = 141.7
EDGE_MM = 339.84
"""Edge of the detector."""


class Size(NamedTuple):
    """How much there is to compute."""

    edge: int
    """pixels along an edge of the detector"""
    d_min: float
    """Å, of the nodes"""
    n_boxes: int
    """shoeboxes of the lattice"""
    n_points: int
    """points of the brute force"""


STILL = Size(edge=1920, d_min=2.1, n_boxes=50, n_points=1 << 15)
"""That of the demo: its stills, and a lattice of stage 1."""

QUICK = Size(edge=192, d_min=5.0, n_boxes=4, n_points=1 << 8)
"""Enough to compare."""


class Kernel(NamedTuple):
    """A compiled function, and what it is called with."""

    name: str
    function: Callable
    """of `jax.jit`"""
    arguments: tuple
    """NumPy"""
    tolerance: float = DOUBLE
    """largest difference between machines, of the largest number; of counts: share that differ"""
    keywords: dict[str, Any] = {}  # noqa: RUF012 (read only)
    """those that decide what is compiled"""
    is_counts: bool = False
    """whether the numbers are whole, and may differ by one"""
    loops: Callable[[], object] | None = None
    """the same numbers in compiled loops on a core, where the stages take these"""

    def run(self, arguments: tuple | None = None) -> Any:
        """Return the arrays of JAX, not waited for. arguments: in place of the kernel's own."""
        return self.function(*(arguments or self.arguments), **self.keywords)


def difference(kernel: Kernel, expected: Any, other: Any) -> float:
    """Return how far the results of a kernel on two machines differ, to be compared with its
    tolerance; infinite where an array is of another type, a number is not finite on one of them
    alone, an answer is the other one, or a count is off by more than one.
    """
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(other), strict=True)
    return max(_difference(np.asarray(a), np.asarray(b), kernel.is_counts) for a, b in pairs)


def _difference(expected: np.ndarray, other: np.ndarray, is_counts: bool) -> float:
    """Return `difference` of two arrays."""
    if expected.dtype != other.dtype or expected.shape != other.shape:
        return np.inf
    is_same = (expected == other) | (np.isnan(expected) & np.isnan(other))
    if is_same.all():
        return 0.0
    if expected.dtype == bool:
        return np.inf
    apart = np.abs(np.where(is_same, 0, expected - other)).astype(np.float64)
    if not np.isfinite(apart).all():
        return np.inf
    if is_counts:
        return float(np.mean(~is_same)) if apart.max() <= 1 else np.inf
    largest = np.abs(expected[np.isfinite(expected)]).max()
    return float(apart.max() / largest) if largest else np.inf


# ---------------------------------------------------------------- what is computed


def every(size: Size = STILL) -> list[Kernel]:
    """Return all kernels, in the order of the workflow."""
    return [*_of_images(size), *_of_lattices(size), *_of_detectors(), *_of_correlation(size)]


def _of_images(size: Size) -> list[Kernel]:
    """Return the kernels that work pixel by pixel, and the sums over atoms: `simulate`."""
    rng = np.random.default_rng(1)
    panel = detector(size.edge)
    normals = geometry.normals(panel)
    height_mm = (panel.origin_mm * normals).sum(axis=-1)
    shape = (1, *panel.shape)
    sine = rng.uniform(0.0, 0.35, shape).astype(np.float32)
    efficiency = rng.uniform(1e-7, 1e-6, shape).astype(np.float32)
    expected = np.geomspace(0.01, 4000.0, noise.BLOCK).astype(np.float32)
    bits = rng.integers(0, 2**32, (3, noise.BLOCK), dtype=np.uint32)
    chain = (np.float32(1.0), np.float32(1.0), np.float32(10.0), np.int32(65_000))
    atoms = (
        rng.integers(-20, 20, (CHUNK_HKL, 3)).astype(np.float64),
        rng.uniform(size=(CHUNK_ATOMS, 3)),
        1e-3 * rng.uniform(size=(CHUNK_ATOMS, 6)),
        rng.uniform(0.5, 4.0, CHUNK_ATOMS),
    )
    return [
        Kernel(
            "pixel_map",
            pixel_map._pixel_map,
            (panel._replace(shape=(0, 0)), normals, height_mm, 0.9),
            SINGLE,
            {"shape": panel.shape, "dtype": np.dtype("float32")},
        ),
        Kernel(
            "background",
            background.background,
            (sine, efficiency, np.float64(1.7437), np.float64(1e12), 0.1, 10.0),
            SINGLE,
        ),
        Kernel(
            "noise: counts",
            noise._poisson,
            (expected, bits, *map(np.asarray, noise._tables())),
            COUNTS,
            is_counts=True,
        ),
        Kernel(
            "noise: readout",
            noise._digitised,
            (np.rint(expected), bits[:1], *chain),
            COUNTS,
            is_counts=True,
        ),
        Kernel("atom_sums", atom_sums.sum_over_block, atoms, SINGLE),
        *_brute_force(size),
    ]


def _brute_force(size: Size) -> list[Kernel]:
    """Return the engine `exact`, in both precisions."""
    rng = np.random.default_rng(2)
    turns = mosaic.domain_rotations(rng, 25, 0.05 * DEG)
    p = lattice(size, mosaic.domains(turns))
    table = exact._table(p.hkl)
    points = Pixels(
        panel=np.zeros(size.n_points, np.int32),
        fast=rng.uniform(0, size.edge, size.n_points),
        slow=rng.uniform(0, size.edge, size.n_points),
    )
    arguments = (p._replace(hkl=None, f_squared=None), p.f_squared.T.copy(), table, points)
    return [
        Kernel(
            "exact, float64",
            exact._block,
            arguments,
            keywords={"shape": "gauss", "dtype": "float64"},
            loops=lambda: exact.gauss_photons(p, points),
        ),
        Kernel(
            "exact, float32",
            exact._block,
            arguments,
            SINGLE,
            {"shape": "square", "dtype": "float32"},
        ),
    ]


def _of_lattices(size: Size) -> list[Kernel]:
    """Return the kernels that work out clouds, rays and photons of a lattice: all stages that model
    pixels.
    """
    p = lattice(size, mosaic.continuous())
    energies = p.spectrum.energies_ev
    followed = cloud_boxes.follow(p, layout.REACH)
    cloud, panel = cloud_boxes._meeting_rows(followed, p.detector)
    meetings = cloud_boxes._meetings(followed, p.detector, cloud, panel)
    panels: dict[str, Any] = {"origin_mm": (), "fast": (), "slow": (), "shape": ()}
    pixels, rays, pairs = _in_shoeboxes(p, size)
    block = Pixels(*(np.resize(column, pair_tables.RAYS) for column in pixels))
    ends_ev = (energies[0], energies[-1])
    frame = crystal_frame(p.crystal.A, SPACE_GROUP)
    unknowns = np.full(3 + len(frame.strains), 1e-3)
    one_point_a_row = np.arange(len(rays))
    return [
        Kernel("rays", pair_tables._compiled_rays, (p.detector, p.polarization, block)),
        Kernel(
            "clouds, averaged",
            pair_tables._averaged,
            (p.crystal, p.mosaic, p.detector, p.hkl, p.edge_px, ends_ev),
        ),
        Kernel("clouds", clouds.clouds, (p.crystal, p.mosaic, p.hkl)),
        Kernel("clouds by crystal", clouds.cloud_changes, (p.crystal, p.mosaic, p.hkl)),
        Kernel("channels", pair_tables.compiled_channels, (p,)),
        Kernel(
            "light on clouds",
            cloud_boxes._light,
            (_numpy(followed.cloud), energies, p.spectrum.photons * p.f_squared),
            SINGLE,
        ),
        Kernel(
            "clouds on panels",
            cloud_boxes._extent,
            (_numpy(meetings), p.detector._replace(**panels)),
            1e-7,  # roots of differences that vanish
        ),
        Kernel(
            "photons",
            jax.jit(differentiable.photons),
            (p, pixels, pairs),
            loops=lambda: forward.sums(p, rays, pairs),
        ),
        Kernel(
            "photons by crystal",
            jax.jit(jax.jacfwd(_photons_of)),
            (p.crystal, p, pixels, pairs),
            loops=lambda: forward.by_crystal(p, rays, pairs, np.eye(13), one_point_a_row),
        ),
        Kernel("orientation", lattice_fit._A, (frame, unknowns)),
        Kernel("orientation by unknowns", lattice_fit._dA, (frame, unknowns)),
    ]


def _photons_of(crystal: Crystal, p: Parameters, pixels: Pixels, pairs: Pairs):
    """Return the photons of a lattice as a function of its crystal."""
    return differentiable.photons(p._replace(crystal=crystal), pixels, pairs)


def _of_detectors() -> list[Kernel]:
    """Return the kernels that move a detector of 64 panels in four groups: `level0`."""
    rng = np.random.default_rng(3)
    n_panels, n_spots, n_groups = 64, 256, 4
    turns = rotation.from_vector(0.05 * rng.normal(size=(n_panels, 3)))
    panels = Detector(
        origin_mm=rng.normal(size=(n_panels, 3)) * (60.0, 60.0, 3.0) - (0.0, 0.0, 120.0),
        fast=turns[:, :, 0],
        slow=-turns[:, :, 1],
        pixel_mm=np.float64(0.1),
        shape=(200, 300),
    )
    group_of_panel = np.arange(n_panels) % n_groups
    d = 1e-3 * rng.normal(size=detector_moves.N_BODY + n_groups * detector_moves.N_OWN)
    panel = rng.integers(0, n_panels, n_spots, dtype=np.int32)
    fast, slow = rng.uniform(0.0, 200.0, (2, n_spots))
    s1 = geometry.direction(panels, panel, fast, slow)
    spots = (panels, d, group_of_panel, panel, s1)
    return [
        Kernel("detector, moved", detector_moves.moved, (panels, d, group_of_panel)),
        Kernel("spots by moves", detector_moves.spots_by_moves, spots),
    ]


def _of_correlation(size: Size) -> list[Kernel]:
    """Return the kernels that keep a block of shots and add up its partners at 20 delays, of one
    pixel in 64: `correlate`.
    """
    rng = np.random.default_rng(5)
    n_pixels, n_shots, n_rows, n_delays = size.edge**2 // 64, jax_engine.AT_ONCE, 512, 20
    rows = rng.poisson(3.0, (n_rows + 1, n_pixels)).astype(np.float32)
    rows[-1] = 0.0
    images = rng.poisson(3.0, (n_shots, n_pixels)).astype(np.float32)
    places = rng.permutation(n_rows)[:n_shots]
    limits = (np.float32(1e-5), np.float32(12.0))
    others = rng.integers(0, n_rows + 1, (n_delays, n_shots))
    sums = rng.uniform(0.0, 1e3, (3, n_delays, n_pixels))
    return [
        Kernel(
            "shots kept",
            jax_engine._kept,
            (rows, np.zeros(n_pixels, bool), images, places, *limits),
        ),
        Kernel(
            "partners added",
            jax_engine._added,
            (rows, places, others, 1.0, sums),
            keywords={"is_earlier": True},
        ),
    ]


# ---------------------------------------------------------------- what it is computed from


def detector(edge: int) -> Detector:
    """Return the demo's detector with so many pixels along an edge."""
    return Detector(
        origin_mm=np.array([[-0.5 * EDGE_MM, 0.5 * EDGE_MM, -DISTANCE_MM]]),
        fast=np.array([[1.0, 0.0, 0.0]]),
        slow=np.array([[0.0, -1.0, 0.0]]),
        pixel_mm=np.float64(EDGE_MM / edge),
        shape=(edge, edge),
        thickness_mm=0.032,
        attenuation_mm=0.017,
    )


def lattice(size: Size, mosaicity: Mosaic) -> Parameters:
    """Return a lattice of the demo, with the nodes that its pulse reaches."""
    rng = np.random.default_rng(4)
    energies = 7070.5 + np.arange(100.0)
    envelope = np.exp(-0.5 * ((energies - 7120.0) / 15.0) ** 2)
    spikes = envelope * rng.exponential(size=len(energies))
    pulse = Spectrum(energies, 1e12 * spikes / spikes.sum())
    A = rotation.random(rng) @ unit_cell.reciprocal(CELL)
    crystal = Crystal(A, np.full(3, 57.0), np.float64(0.05 * DEG))
    hkl = unit_cell.all_indices(A, size.d_min)
    hkl = hkl[layout.reached(crystal, mosaicity, hkl, pulse)]
    of_nodes = 1e4 * rng.exponential(size=(len(hkl), 1))
    f_squared = of_nodes * (1.0 + 0.1 * rng.standard_normal((len(hkl), len(energies))))
    hkl, f_squared = to_few_sizes((hkl, f_squared))
    return Parameters(
        crystal=crystal,
        mosaic=mosaicity,
        scale=93.75,
        beam_mm=0.003,
        spectrum=pulse,
        polarization=0.9,
        detector=detector(size.edge),
        hkl=hkl,
        f_squared=f_squared,
        edge_px=0.5,
    )


def _in_shoeboxes(p: Parameters, size: Size) -> tuple[Pixels, np.ndarray, Pairs]:
    """Return the points, rays and pairs of the brightest reflections of a lattice: 2 × 2 points a
    pixel, in shoeboxes of 28 × 28 pixels.
    """
    footprints, points, rays, pairs = layout.lay_out(p)
    photons = forward.sums(p, rays, pairs)[0]
    footprint = np.repeat(np.arange(len(footprints.node)), footprints.n_points)
    of_each = np.bincount(footprint, photons, len(footprints.node))
    best = np.argsort(-of_each)[: size.n_boxes]
    width = 28
    corners = []
    for coordinate in (points.fast, points.slow):
        moment = np.bincount(footprint, photons * coordinate, len(of_each))
        first = np.floor(moment[best] / of_each[best]).astype(int) - width // 2
        corners.append(np.clip(first, 0, size.edge - width))
    fast0, slow0 = corners
    bbox = np.stack([fast0, fast0 + width, slow0, slow0 + width], axis=1)
    panel = footprints.panel[best]
    rays, pairs = layout.within(p, panel, bbox, oversample=2)
    return layout.points(layout.rectangles(panel, bbox, 2)), rays, pairs


def _numpy(tree: Any) -> Any:
    """Return arrays as a stage hands them from one kernel to the next."""
    return jax.tree.map(np.asarray, tree)

"""Derivatives of the expected photons by everything they depend on, of both engines, against finite
differences.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spreadflow.models import Crystal, Detector, Parameters, Pixels, Spectrum
from spreadflow.physics import differentiable, exact, forward, layout, mosaic, rotation, unit_cell
from spreadflow.physics.pair_tables import Pairs, rays_by_point
from spreadflow.units import DEG

CELL = unit_cell.radians([60.0, 55.0, 50.0, 80.0, 105.0, 95.0])
TURN = rotation.random(np.random.default_rng(3))
STEPS = {
    "orientation": 1e-6,
    "cell": 1e-6,
    "crystal.A": 1e-9,
    "crystal.n_cells": 1e-4,
    "crystal.eta_rad": 1e-8,
    "mosaic.rotations": 1e-7,
    "mosaic.width": 1e-5,
    "mosaic.share": 1e-5,
    "scale": 1e-3,
    "beam_mm": 1e-8,
    "spectrum.energies_ev": 1e-4,
    "spectrum.photons": 1e6,
    "polarization": 1e-4,
    "detector.origin_mm": 1e-5,
    "detector.fast": 1e-7,
    "detector.slow": 1e-7,
    "detector.pixel_mm": 1e-7,
    "detector.thickness_mm": 1e-6,
    "detector.attenuation_mm": 1e-6,
    "f_squared": 1e-2,
}
"""what is moved, and by how much in a random direction; orientation is a rotation vector, cell in Å
and rad
"""
BY_AXIS = np.array([0.03, 0.05, 0.09]) * DEG
"""η by axis of the crystal, rad"""
CRYSTAL = ("orientation", "cell", "crystal.A", "crystal.n_cells", "crystal.eta_rad", "scale")
"""what η by axis may matter to"""


def detector() -> Detector:
    """Two tilted panels at 2θ of about 30°."""
    turn = rotation.from_vector(np.array([[0.02, -0.01, 0.03], [-0.03, 0.02, -0.01]]))
    return Detector(
        origin_mm=np.array([[5.0, 30.0, -60.0], [26.0, 30.3, -59.0]]),
        fast=turn[:, :, 0],
        slow=-turn[:, :, 1],
        pixel_mm=0.1,
        shape=(200, 200),
        thickness_mm=0.032,
        attenuation_mm=0.017,
    )


def parameters(is_continuous: bool, n_nodes: int | None = None) -> Parameters:
    rng = np.random.default_rng(4)
    energies = 7090.0 + 1.0 * np.arange(40)
    pulse = Spectrum(energies, 1e10 * rng.exponential(size=40))
    crystal = Crystal(
        TURN @ unit_cell.reciprocal(CELL), np.array([40.0, 36.0, 48.0]), np.float64(0.05 * DEG)
    )
    turns = mosaic.domain_rotations(np.random.default_rng(5), 25, 0.05 * DEG)
    mosaicity = mosaic.continuous() if is_continuous else mosaic.domains(turns)
    hkl = unit_cell.all_indices(crystal.A, 2.2)
    hkl = hkl[layout.reached(crystal, mosaicity, hkl, pulse)][:n_nodes]
    of_nodes = 1e4 * rng.exponential(size=(len(hkl), 1))
    changes = 1.0 + 0.1 * rng.standard_normal((len(hkl), 40))
    return Parameters(
        crystal=crystal,
        mosaic=mosaicity,
        scale=90.0,
        beam_mm=0.003,
        spectrum=pulse,
        polarization=0.8,
        detector=detector(),
        hkl=hkl,
        f_squared=of_nodes * changes,
    )


def engine(name: str, n_brightest: int):
    """Parameters, and a function photons(parameters, dtype) of the brightest points."""
    p = parameters(name in ("continuous", "by axis"))
    if name == "by axis":
        p = p._replace(crystal=p.crystal._replace(eta_rad=BY_AXIS))
    _, pixels, rays, pairs = layout.lay_out(p)
    values = forward.sums(p, rays, pairs)[0]
    chosen = np.sort(np.argsort(-values)[:n_brightest])
    pixels = Pixels(*(column[chosen] for column in pixels))
    if name == "exact":
        chosen = np.arange(0, len(chosen), 20)
        return p, partial(exact.photons, pixels=Pixels(*(column[chosen] for column in pixels)))
    new_row = np.full(len(values), -1)
    new_row[chosen] = np.arange(len(chosen))
    is_chosen = new_row[pairs.point] >= 0
    pairs = Pairs(*(column[is_chosen] for column in pairs))
    pairs = pairs._replace(point=new_row[pairs.point].astype(np.int32))
    return p, partial(differentiable.photons, pixels=pixels, pairs=pairs)


def direct(cell):
    """The direct basis (3, 3) of a cell, traced by JAX."""
    a, b, c, *angles = cell
    ca, cb, cg = (jnp.cos(angle) for angle in angles)
    sg = jnp.sin(angles[2])
    cy = (ca - cb * cg) / sg
    cz = jnp.sqrt(1 - cb**2 - cy**2)
    rows = [[a, b * cg, c * cb], [0.0, b * sg, c * cy], [0.0, 0.0, c * cz]]
    return jnp.array([[jnp.asarray(entry, dtype=float) for entry in row] for row in rows])


def inverse(matrix):
    """Return the inverse of a matrix (3, 3) from cross products: little to compile."""
    a, b, c = matrix.T
    rows = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)])
    return rows / (a @ rows[0])


def moved(p: Parameters, name: str, by) -> Parameters:
    """The parameters with a leaf, the orientation or the cell moved."""
    if name == "orientation":
        x, y, z = by
        skew = jnp.array([[0.0 * x, -z, y], [z, 0.0 * x, -x], [-y, x, 0.0 * x]])
        turn = jnp.eye(3) + skew + 0.5 * skew @ skew  # to second order: enough at zero
        return p._replace(crystal=p.crystal._replace(A=turn @ p.crystal.A))
    if name == "cell":
        strain = unit_cell.orthogonalization(CELL).T @ inverse(direct(CELL + by)).T
        return p._replace(crystal=p.crystal._replace(A=p.crystal.A @ strain))
    field, _, leaf = name.partition(".")
    value = getattr(p, field)
    if not leaf:
        return p._replace(**{field: value + by})
    changed = {leaf: getattr(value, leaf) + by}
    return p._replace(**{field: value._replace(**changed)})


def sizes(p: Parameters, name: str) -> tuple[int, ...]:
    """The shape of what `moved` adds to a leaf."""
    if name == "orientation":
        return (3,)
    if name == "cell":
        return (6,)
    field, _, leaf = name.partition(".")
    value = getattr(p, field)
    return np.shape(getattr(value, leaf) if leaf else value)


@pytest.fixture(
    scope="module",
    params=[
        "domains",
        "continuous",
        "by axis",
        "exact",
    ],
)
def derivatives(request):
    """By name: change of the photons per step of it, by forward derivative, central difference and
    in reverse.
    """
    name = request.param
    p, photons = engine(name, 1000)
    absent = ("mosaic.width", "crystal.eta_rad") if name == "exact" else ()
    leaves = [leaf for leaf in (CRYSTAL if name == "by axis" else STEPS) if leaf not in absent]
    rng = np.random.default_rng(1)

    def sign(shape):
        return rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape)

    directions = [STEPS[leaf] * sign(sizes(p, leaf)) for leaf in leaves]

    def photons_after(steps):
        changed = p
        for leaf, direction, step in zip(leaves, directions, steps, strict=True):
            changed = moved(changed, leaf, step * direction)
        return photons(changed)

    @jax.jit
    def value_and_change(steps, tangent):
        return jax.jvp(photons_after, (steps,), (tangent,))

    zero = np.zeros(len(leaves))
    forwards = []
    central = []
    for step in np.eye(len(leaves)):
        value, change = value_and_change(zero, step)
        forwards.append(np.asarray(change))
        difference = value_and_change(step, zero)[0] - value_and_change(-step, zero)[0]
        central.append(0.5 * np.asarray(difference))
    weights = rng.uniform(size=len(value))
    reverse = jax.jit(jax.grad(lambda steps: weights @ photons_after(steps)))(zero)
    by_leaf = dict(
        zip(leaves, zip(forwards, central, np.asarray(reverse), strict=True), strict=True)
    )
    return name, np.asarray(value), weights, by_leaf


@pytest.mark.parametrize("leaf", STEPS)
def test_forward_and_reverse_derivatives_are_the_finite_difference(derivatives, leaf):
    name, value, weights, by_leaf = derivatives
    if leaf not in by_leaf:
        pytest.skip("not among the parameters of this engine or way")
    change, difference, reverse = by_leaf[leaf]
    if name == "domains" and leaf == "mosaic.width":
        assert np.abs(change).max() == 0.0, (
            "photons go with the square of a width, and domains have none"
        )
        return
    if name == "domains" and leaf == "crystal.eta_rad":
        assert np.abs(change).max() == np.abs(difference).max() == 0.0, "the rotations are given"
        return
    assert np.abs(difference).max() > 1e-9 * value.max()
    np.testing.assert_allclose(change, difference, rtol=1e-5, atol=3e-6 * np.abs(difference).max())
    assert reverse == pytest.approx(weights @ change, rel=1e-8)


@pytest.mark.stage
@pytest.mark.parametrize("name", ["domains", "continuous", "by axis"])
def test_derivatives_by_the_crystal_in_compiled_loops(name):
    """`by_crystal` holds what `photons` and its derivatives are."""
    p, photons = engine(name, 2000)
    pixels = photons.keywords["pixels"]
    pairs = photons.keywords["pairs"]
    rays = rays_by_point(p.detector, p.polarization, pixels)
    every = np.eye(12 + np.size(p.crystal.eta_rad))
    row = np.arange(len(rays))
    value, by_crystal = forward.by_crystal(p, rays, pairs, every, row)

    def photons_of(A, n_cells, eta):
        return photons(p._replace(crystal=Crystal(A, n_cells, eta)))

    expected = np.asarray(photons(p))
    atol = 1e-13 * expected.max()
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=atol)
    truth = jax.jit(jax.jacfwd(photons_of, argnums=(0, 1, 2)))(*p.crystal)
    for columns, derivative in zip(np.split(by_crystal, (9, 12), axis=1), truth, strict=True):
        derivative = np.reshape(derivative, columns.shape)
        largest = max(np.abs(derivative).max(), 1e-300)
        np.testing.assert_allclose(columns, derivative, atol=1e-12 * largest)


@pytest.mark.stage
@pytest.mark.parametrize("name", ["domains", "continuous"])
def test_derivatives_of_averages_over_squares(name):
    """By the size of the squares, the distance of the detector and the scale."""
    p, photons = engine(name, 500)
    away = np.asarray(p.detector.origin_mm)

    def photons_after(x):
        detector = p.detector._replace(origin_mm=away * (1.0 + x[1]))
        scale = p.scale * (1.0 + x[2])
        return photons(p._replace(edge_px=1.0 + x[0], detector=detector, scale=scale))

    jacobian = jax.jacfwd(photons_after)(np.zeros(3))
    value = np.asarray(photons_after(np.zeros(3)))
    assert np.abs(value - np.asarray(photons(p))).max() > 0.05 * value.max()
    for i, step in enumerate((1e-5, 1e-7, 1e-3)):
        direction = step * np.eye(3)[i]
        difference = np.asarray(photons_after(direction)) - np.asarray(photons_after(-direction))
        central = difference / (2 * step)
        assert np.abs(central).max() > 1e-3 * value.max()
        np.testing.assert_allclose(
            jacobian[:, i], central, rtol=1e-5, atol=3e-6 * np.abs(central).max()
        )

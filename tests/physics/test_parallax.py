"""Parallax in thick sensors: limits, a numerical integral of the absorption, inverses, derivatives,
and where photons of the forward model fall.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from spreadflow.models import Crystal, Detector, Parameters, Spectrum
from spreadflow.physics import (
    forward,
    geometry,
    layout,
    mosaic,
    parallax,
    rotation,
    unit_cell,
)
from spreadflow.physics.pair_tables import rays
from spreadflow.physics.pixel_map import pixel_map

TURNS = rotation.from_vector(np.array([[0.02, -0.01, 0.03], [-0.3, 0.2, -0.1]]))
THICK = Detector(
    origin_mm=np.array([[-20.0, 22.0, -60.0], [24.0, 18.0, -55.0]]),
    fast=TURNS[:, :, 0],
    slow=-TURNS[:, :, 1],
    pixel_mm=0.1,
    shape=(400, 400),
    thickness_mm=0.5,
    attenuation_mm=0.3,
    parallax_mm=0.3,
)
"""Two tilted panels, the second by 20°."""
THIN = THICK._replace(parallax_mm=None)


def points(n: int = 40):
    """Return panels and coordinates of points on `THICK`."""
    rng = np.random.default_rng(3)
    return rng.integers(0, 2, n), *rng.uniform(0, 400, (2, n))


def mean_depth(thickness: float, attenuation: float, cosine: float) -> float:
    """The mean depth of absorbed photons along the normal, by numerical integration."""
    path = thickness / cosine
    weights = [
        quad(lambda x, power=power: x**power * np.exp(-x / attenuation), 0, path)[0]
        for power in (0, 1)
    ]
    return weights[1] / weights[0] * cosine


@pytest.mark.parametrize("thickness", [1e-4, 0.03, 0.3, 1.0])
@pytest.mark.parametrize("attenuation", [0.017, 0.25, 8.0])
def test_depth_is_the_mean_of_the_absorption(thickness, attenuation):
    cosines = np.array([1.0, 0.8, 0.5, -0.5])
    panel = THICK._replace(thickness_mm=thickness, parallax_mm=attenuation)
    expected = [mean_depth(thickness, attenuation, abs(cosine)) for cosine in cosines]
    np.testing.assert_allclose(parallax.depth_mm(panel, cosines), expected, rtol=1e-9)
    in_jax = parallax.depth_mm(panel, jnp.asarray(cosines))
    np.testing.assert_allclose(in_jax, expected, rtol=1e-9)


def test_limits_of_the_depth():
    """Half the thickness where little is absorbed, the attenuation length times the cosine where
    all is, and 0 in a sensor without thickness or at grazing incidence.
    """
    cosine = np.array([1.0, 0.3])

    def depth(thickness, attenuation, cosine=cosine):
        panel = THICK._replace(thickness_mm=thickness, parallax_mm=attenuation)
        return parallax.depth_mm(panel, cosine)

    np.testing.assert_allclose(depth(0.5, 1e6), 0.25, rtol=1e-5)
    np.testing.assert_allclose(depth(1e3, 0.2), 0.2 * cosine)
    assert np.all(depth(0.0, 0.2) == 0)
    assert depth(0.5, 0.2, np.zeros(1)) < 1e-6


def test_head_on_nothing_moves():
    """A ray along a panel's normal is recorded where it meets the surface."""
    normal = geometry.normals(THICK)
    height = (THICK.origin_mm * normal).sum(axis=1, keepdims=True)
    foot = normal * height
    panel = np.arange(2)
    np.testing.assert_allclose(
        geometry.on_panel(THICK, panel, foot), geometry.on_panel(THIN, panel, foot), atol=1e-9
    )


def test_rays_are_recorded_farther_out_by_the_depth_times_the_tangent():
    panel, fast, slow = points()
    s1 = geometry.direction(THIN, panel, fast, slow)
    there = geometry.on_panel(THICK, panel, s1)
    place = geometry.position(THICK, panel, *there)
    shift = place - geometry.position(THIN, panel, fast, slow)
    normal = geometry.normals(THICK)[panel]
    normal = normal * np.sign((place * normal).sum(axis=1, keepdims=True))
    cosine = (s1 * normal).sum(axis=1)
    outwards = s1 / cosine[:, None] - normal
    depth = [mean_depth(0.5, 0.3, one) for one in cosine]
    np.testing.assert_allclose(shift, outwards * np.array(depth)[:, None], atol=1e-9)


def test_pixels_and_rays_are_inverse():
    """Of both directions, on either hand of the normals, and as the forward model has the rays."""
    panel, fast, slow = points()
    flipped = THICK._replace(fast=THICK.slow, slow=THICK.fast)
    for detector in (THICK, flipped):
        s1 = geometry.direction(detector, panel, fast, slow)
        np.testing.assert_allclose(
            geometry.on_panel(detector, panel, 7 * s1), (fast, slow), rtol=1e-8
        )
        hit, *there = geometry.intersect(detector, s1)
        np.testing.assert_array_equal(hit, panel)
        np.testing.assert_allclose(there, (fast, slow), rtol=1e-8)

        turn = np.stack(rays(detector, 1.0, layout.Pixels(panel, fast, slow)).turn, axis=1)
        change = s1 - geometry.S0
        np.testing.assert_allclose(turn * (change / turn).mean(), change, atol=1e-9)


def test_pixel_map_follows_the_rays():
    _, sine = pixel_map(THICK, 1.0)
    slow, fast = np.mgrid[:400:57, :400:57]
    for panel in range(2):
        s1 = geometry.direction(THICK, np.full(slow.shape, panel), fast + 0.5, slow + 0.5)
        expected = np.linalg.norm(s1 - geometry.S0, axis=-1) / 2
        np.testing.assert_allclose(sine[panel, ::57, ::57], expected, rtol=1e-9)


def test_derivative_by_the_ray_equals_finite_differences():
    panel, fast, slow = points(5)
    s1 = geometry.direction(THICK, panel, fast, slow)

    def place(s1):
        return jnp.stack(geometry.on_panel(THICK, panel, s1))

    for axis in np.eye(3):
        change = np.broadcast_to(axis, s1.shape)
        _, derivative = jax.jvp(place, (s1,), (change,))
        difference = (place(s1 + 1e-5 * change) - place(s1 - 1e-5 * change)) / 2e-5
        np.testing.assert_allclose(derivative, difference, rtol=1e-6, atol=1e-3)


def test_derivative_by_the_distance_equals_finite_differences():
    """Of the rays to points, as the refinement of a lattice against its pixels has them."""
    panel, fast, slow = points(5)
    pixels = layout.Pixels(panel, fast, slow)

    def turn(distance_mm):
        moved = geometry.shifted(THICK, 0.0, 0.0, distance_mm)
        return jnp.stack(rays(moved, 1.0, pixels).turn)

    derivative = jax.jacfwd(turn)(0.0)
    difference = (turn(1e-4) - turn(-1e-4)) / 2e-4
    np.testing.assert_allclose(derivative, difference, rtol=1e-6, atol=1e-13)


def test_without_parallax_programs_are_the_same():
    """What is traced has not one operation more than for a sensor without thickness."""
    panel, _fast, _slow = points(3)
    no_sensor = THIN._replace(thickness_mm=0.0, attenuation_mm=0.0)

    def operations(detector):
        traced = jax.make_jaxpr(lambda d: geometry.on_panel(d, panel, jnp.ones((3, 3))))(detector)
        return str(traced)

    assert operations(THIN) == operations(no_sensor)
    assert operations(THICK) != operations(THIN)


@pytest.mark.stage
def test_photons_of_the_forward_model_fall_where_layers_of_the_sensor_record_them():
    """The centroids of spots, against layers of the sensor, each a panel of its own, weighted by
    what it absorbs (Gauss quadrature over the depth).
    """
    turn = rotation.from_vector(np.array([0.3, -0.5, 0.8]))
    cell = unit_cell.radians([30.0, 40.0, 50.0, 90.0, 90.0, 90.0])
    detector = Detector(
        origin_mm=np.array([[-40.0, 40.0, -40.0]]),
        fast=np.array([[1.0, 0, 0]]),
        slow=np.array([[0, -1.0, 0]]),
        pixel_mm=0.1,
        shape=(800, 800),
        thickness_mm=0.6,
        attenuation_mm=0.3,
        parallax_mm=0.3,
    )
    p = Parameters(
        crystal=Crystal(turn @ unit_cell.reciprocal(cell), np.full(3, 12.0), np.float64(4e-3)),
        mosaic=mosaic.continuous(),
        scale=1.0,
        beam_mm=0.003,
        spectrum=Spectrum(np.arange(7110.0, 7130.0), np.full(20, 1e10)),
        polarization=0.0,
        detector=detector,
        hkl=np.zeros((0, 3), np.int32),
        f_squared=np.zeros((0, 20)),
    )
    nodes, gauss = np.polynomial.legendre.leggauss(5)
    depths = 0.3 * (nodes + 1.0)
    for one in ([-3, 13, 10], [-1, -13, 10]):
        node = p._replace(hkl=np.array([one], np.int32), f_squared=np.full((1, 20), 1e4))
        surface = node._replace(detector=detector._replace(parallax_mm=None))
        centre = _centroid(node)
        cosine = 40.0 / np.hypot(40.0, np.hypot(*(0.1 * (centre - 400.0))))
        weights = gauss * np.exp(-depths / 0.3 / cosine)
        of_layers = []
        for depth in depths:
            farther = geometry.shifted(surface.detector, 0.0, 0.0, depth)
            of_layers.append(_centroid(surface._replace(detector=farther)))
        expected = np.average(of_layers, axis=0, weights=weights)
        np.testing.assert_allclose(centre, expected, atol=0.02)
        assert np.abs(_centroid(surface) - expected).max() > 0.5


def _centroid(p: Parameters) -> np.ndarray:
    """Return the centre of mass (fast, slow) of the photons of a node, px."""
    _, pixels, rays, pairs = layout.lay_out(p)
    photons = forward.sums(p, rays, pairs)[0]
    return np.array([photons @ pixels.fast, photons @ pixels.slow]) / photons.sum()

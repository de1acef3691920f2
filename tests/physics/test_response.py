"""What part of the photons pixels capture: known integrals and limits."""

import numpy as np
import pytest

from spreadflow.models import Detector
from spreadflow.physics import geometry, response, rotation
from spreadflow.physics.pixel_map import pixel_map

FLAT = Detector(
    origin_mm=np.array([[-30.0, 20.0, -50.0]]),
    fast=np.array([[1.0, 0, 0]]),
    slow=np.array([[0, -1.0, 0]]),
    pixel_mm=0.25,
    shape=(160, 240),
    thickness_mm=0.032,
    attenuation_mm=0.017,
)
"""One panel normal to the beam."""


def test_solid_angle_of_a_rectangle():
    """4 atan(ab / (d √(a² + b² + d²))) for half edges a, b at distance d, whatever way the panel is
    turned.
    """
    exact = 4 * np.arctan(30.0 * 20.0 / (50.0 * np.sqrt(30.0**2 + 20.0**2 + 50.0**2)))
    turn = rotation.from_vector(np.array([0.4, -0.3, 0.2]))
    turned = FLAT._replace(
        origin_mm=FLAT.origin_mm @ turn, fast=FLAT.fast @ turn, slow=FLAT.slow @ turn
    )
    for panel in (FLAT, turned):
        opaque = panel._replace(thickness_mm=0.0)
        polarized, sine = pixel_map(opaque, 0.0)
        cos_2theta = 1.0 - 2.0 * sine**2
        solid_angle = polarized / (0.5 * (1 + cos_2theta**2))
        assert solid_angle.sum() == pytest.approx(exact, rel=1e-5)


def test_capture_and_polarization():
    thick, sine = pixel_map(FLAT, 1.0)
    thin, _ = pixel_map(FLAT._replace(thickness_mm=0.0), 1.0)
    centre = np.unravel_index(sine.argmin(), sine.shape)
    assert (thick / thin)[centre] == pytest.approx(0.848, abs=1e-3)  # published, on the axis
    assert (thick / thin).argmin() == np.ravel_multi_index(centre, sine.shape), (
        "oblique rays stay longer"
    )
    unpolarized, _ = pixel_map(FLAT, 0.0)
    factor = thick / unpolarized
    # along the polarization less is scattered
    assert factor[0, 80, 0] < 0.9 < 1.0 < factor[0, 0, 120]
    np.testing.assert_allclose(factor + pixel_map(FLAT, -1.0)[0] / unpolarized, 2.0)


def test_captured_fraction():
    """The published sensor head on and at 60°; everything where thickness or attenuation is not
    known.
    """
    rays = np.array([[0.0, 0, -1.0], [np.sqrt(0.75), 0, -0.5]]).T
    normal = np.array([0.0, 0.0, 1.0])
    fraction = response.captured(rays, normal, response.depth(FLAT))
    np.testing.assert_allclose(fraction, [1 - np.exp(-32 / 17), 1 - np.exp(-64 / 17)])
    for name in ("thickness_mm", "attenuation_mm"):
        depth = response.depth(FLAT._replace(**{name: 0.0}))
        assert (response.captured(rays, normal, depth) == 1).all()


def test_polarization_limits():
    """Nothing at 90° along a complete polarization, everything across it; the mean of both without
    any.
    """
    s1 = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]])
    np.testing.assert_allclose(response.kahn(s1.T, 1.0), [0, 1, 1])
    np.testing.assert_allclose(response.kahn(s1.T, 0.0), [0.5, 0.5, 1])


def test_pixels_of_two_panels_are_where_geometry_puts_them():
    """The second panel is bent away; a map in float32 is the one in float64, rounded."""
    turn = rotation.from_vector(np.array([0.4, -0.3, 0.2]))
    two = FLAT._replace(
        origin_mm=np.concatenate([FLAT.origin_mm, FLAT.origin_mm @ turn]),
        fast=np.concatenate([FLAT.fast, FLAT.fast @ turn]),
        slow=np.concatenate([FLAT.slow, FLAT.slow @ turn]),
    )
    efficiency, sine = pixel_map(two, 0.7)
    panel = np.array([0, 1, 1])
    slow = np.array([3, 0, 159])
    fast = np.array([200, 0, 77])
    place = geometry.position(two, panel, fast + 0.5, slow + 0.5)
    distance = np.linalg.norm(place, axis=-1)
    cos_2theta = -place[:, 2] / distance
    np.testing.assert_allclose(sine[panel, slow, fast], np.sqrt((1 - cos_2theta) / 2), rtol=1e-12)
    inclined = np.abs((place * geometry.normals(two)[panel]).sum(-1)) / distance
    factors = 0.5 * (1 + cos_2theta**2 - 0.7 * (place[:, 0] ** 2 - place[:, 1] ** 2) / distance**2)
    factors *= 0.25**2 * inclined / distance**2 * (1 - np.exp(-32 / 17 / inclined))
    np.testing.assert_allclose(efficiency[panel, slow, fast], factors, rtol=1e-12)
    in_float32 = pixel_map(two, 0.7, np.float32)
    for single, double in zip(in_float32, (efficiency, sine), strict=True):
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, rtol=1e-7)

"""Components seen one by one against sums over pairs of points and clouds."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from spreadflow.analysis.pixels import pixel_points
from spreadflow.models import Crystal, Detector, Mosaic, Parameters, Shoeboxes, Spectrum
from spreadflow.physics import forward, layout, mosaic, rotation, unit_cell
from spreadflow.physics.components import by_component
from spreadflow.units import DEG

REACH = 3.5
ETA = 0.05 * DEG
CELL = unit_cell.radians([67.2, 59.8, 47.2, 90.0, 110.3, 90.0])


def lattice(n_channels: int = 40) -> Parameters:
    """Three domains of a crystal in a spiky pulse, on two panels; a third of the nodes to 3 Å."""
    rng = np.random.default_rng(8)
    energies = 7100.0 + np.arange(n_channels)
    crystal = Crystal(
        rotation.random(rng) @ unit_cell.reciprocal(CELL), np.full(3, 57.0), np.float64(ETA)
    )
    turns = mosaic.domain_rotations(rng, 3, ETA)
    hkl = unit_cell.all_indices(crystal.A, 3.0)
    pulse = Spectrum(energies, 1e9 * rng.exponential(size=n_channels))
    hkl = hkl[layout.reached(crystal, mosaic.continuous(), hkl, pulse)][::3]
    return Parameters(
        crystal=crystal,
        mosaic=Mosaic(turns, np.full(3, 0.3), np.ones(3), np.float64(ETA)),
        scale=93.75,
        beam_mm=0.003,
        spectrum=pulse,
        polarization=1.0,
        hkl=hkl,
        f_squared=1e4 * rng.exponential(size=(len(hkl), n_channels)),
        detector=detector(),
    )


def detector() -> Detector:
    """Two panels beside each other, one of them tilted."""
    return Detector(
        origin_mm=np.array([[-50.0, 40.0, -141.7], [0.5, 40.0, -141.7]]),
        fast=np.array([[1.0, 0.0, 0.0], [0.98, 0.0, -0.19899748742132]]),
        slow=np.array([[0.0, -1.0, 0.0], [0.0, -1.0, 0.0]]),
        pixel_mm=0.177,
        shape=(450, 280),
        thickness_mm=0.032,
        attenuation_mm=0.017,
    )


def shoeboxes(p: Parameters) -> Shoeboxes:
    """Boxes around 12 reflections, a fifth of their pixels not valid."""
    footprints = layout.lay_out(p).footprints
    low = np.stack([footprints.fast0, footprints.slow0], axis=1)[:12]
    size = np.stack([footprints.width, footprints.height], axis=1)[:12]
    bbox = np.stack([low, low + size], axis=2).reshape(-1, 4)
    n_pixels = int(size.prod(axis=1).sum())
    valid = np.random.default_rng(1).random(n_pixels) > 0.2
    zeros = np.zeros(n_pixels, dtype=np.float32)
    return Shoeboxes(np.zeros((12, 3), dtype=int), footprints.panel[:12], bbox, zeros, valid)


def of_pairs(p: Parameters, boxes: Shoeboxes, oversample: int) -> np.ndarray:
    """Photons (valid pixel, component), pair by pair."""
    rays, pairs = layout.within(p, boxes.panel, boxes.bbox, REACH, oversample)
    points = pixel_points.of_boxes(boxes, oversample)
    n = len(p.mosaic.share)
    place = (points.pixel[pairs.point], pairs.cloud % n)
    sums = csr_matrix((forward.each(p, rays, pairs), place), (points.n_pixels + 1, n))
    return points.means_of_sums(sums).toarray()


@pytest.mark.parametrize("oversample", [1, 2])
@pytest.mark.parametrize("n_cells", [57.0, 4000.0], ids=["tabulated", "too sharp for tables"])
def test_components_are_those_of_pairs(oversample, n_cells):
    """Beyond their reach pairs go on to the end of a window, components do not."""
    p = lattice()
    boxes = shoeboxes(p)
    if n_cells > 1000.0:
        crystal = p.crystal._replace(n_cells=np.full(3, n_cells))
        narrow = p.mosaic._replace(width=np.zeros(3))
        p = p._replace(crystal=crystal, mosaic=narrow)
    p = p._replace(edge_px=1.0 / oversample)
    expected = of_pairs(p, boxes, oversample)
    photons = by_component(p, boxes, oversample, REACH)
    assert photons.shape == expected.shape and (expected > 0).any(axis=0).all()
    np.testing.assert_allclose(photons.toarray(), expected, atol=3e-3 * expected.max())
    sums = photons.toarray().sum(axis=0)
    np.testing.assert_allclose(sums, expected.sum(axis=0), rtol=5e-3)

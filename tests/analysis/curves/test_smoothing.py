"""σ of smoothed curves across an edge, where the truth bends more than the restraint allows."""

import numpy as np
import pytest

from spreadflow.analysis.curves import dispersion, smoothing
from spreadflow.physics import anomalous

ENERGIES = np.arange(100) + 7070.5
NODES = np.arange(7070.5, 7171.0, 2.0)


def sites(*names: str) -> np.ndarray:
    """Curves (site, 2, channel)."""
    curves = np.array([anomalous.site("Fe", name, ENERGIES) for name in names])
    return np.stack([curves.real, curves.imag], axis=1)


TRUE = sites("oxidized", "reduced")


@pytest.mark.stage
@pytest.mark.parametrize("light", [1e-3, 0.1])
@pytest.mark.parametrize("start", ["mean", "metallic"])
def test_errors_of_smoothed_curves_are_as_large_as_their_sigma(curve_pixels, light, start):
    """Also at the edge and at the worst node, whether pixels know the curves well or not; the start
    has its edges in the middle or 5 eV off.
    """
    reference = sites("metallic", "metallic")
    if start == "mean":
        reference = TRUE.mean(axis=0)[None].repeat(2, axis=0)
    p = dispersion.smooth(dispersion.free(reference, ENERGIES, NODES))
    pixels = curve_pixels._replace(
        hessian=light * curve_pixels.hessian, root=np.sqrt(light) * curve_pixels.root
    )
    true = p._replace(reference=TRUE).reference_at_nodes
    rng = np.random.default_rng(1)
    as_quoted = []
    at_its_word = []
    for _ in range(25):
        theta, of_pixels = pixels.refined(p, pixels.slope(TRUE, rng))
        covariance = np.linalg.inv(of_pixels + p.restraints)
        bias = smoothing.bias(p, theta, of_pixels, of_pixels)
        values = p.reference_at_nodes + (p.at_nodes @ theta).reshape(true.shape)
        as_quoted.append((values - true) / p.sigma(covariance + np.outer(bias, bias)))
        at_its_word.append((values - true) / p.sigma(covariance))

    def pulls(of_sets: list[np.ndarray]) -> tuple[float, float]:
        """Root mean squares over the band and at its worst node."""
        is_in_band = (NODES > 7100.0) & (NODES < 7140.0)
        squares = np.square(of_sets)[..., is_in_band].mean(axis=0)
        return np.sqrt(squares.mean()), np.sqrt(squares.max())

    in_band, at_worst = pulls(as_quoted)
    assert 0.7 < in_band < 1.2
    assert at_worst < 2.3
    assert pulls(at_its_word)[1] > 4.0, "the restraint says more than it may"

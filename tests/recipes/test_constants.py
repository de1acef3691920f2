"""Curves taken apart into constants and shapes: σ by drawing curves from their covariance."""

import numpy as np
import pytest

from spreadflow.analysis.curves import dispersion
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.recipes.constants import constant_rows
from spreadflow.recipes.curves import QuotedFit

ENERGIES = 7090.0 + np.arange(70.0)
"""Channels, eV, on either side of the band that is compared, 7100 to 7140 eV."""


def fit_of(theta: np.ndarray, hessian: np.ndarray, nodes: np.ndarray) -> QuotedFit:
    """A fit of two sites whose reference curves are straight lines."""
    line = np.linspace(-1.0, 1.0, len(ENERGIES))
    p = dispersion.free(np.stack([[line, 2.0 + line]] * 2), ENERGIES, nodes)
    refined = RefinedCurves(theta, np.zeros(1), hessian, hessian, np.zeros((1, len(theta))), [])
    return QuotedFit(p, refined, hessian, "fisher", np.zeros(len(theta)))


def test_a_curve_is_its_mean_and_its_shape():
    """σ of both as thousands of curves scatter that are drawn from the covariance."""
    rng = np.random.default_rng(3)
    nodes = np.arange(7092.0, 7157.0, 8.0)
    n = 4 * len(nodes)
    mixed = rng.standard_normal((n, 2 * n))
    hessian = mixed @ mixed.T
    theta = rng.standard_normal(n)
    fit = fit_of(theta, hessian, nodes)
    rows = constant_rows({"free": fit}, "Fe")
    assert rows.fit.tolist() == [0, 0]
    assert rows.site.tolist() == [0, 1]

    is_compared = (nodes >= 7100) & (nodes <= 7140)
    assert 0 < is_compared.sum() < len(nodes)
    draws = rng.multivariate_normal(theta, np.linalg.inv(hessian), 20_000)
    curves = draws.reshape(-1, 2, 2, len(nodes))[..., is_compared]
    means = curves.mean(axis=-1)
    shapes = curves - means[..., None]
    shape_sigma = np.sqrt(shapes.var(axis=0).mean(axis=-1))
    start = fit.p.reference_at_nodes[..., is_compared].mean(axis=-1)
    exact = theta.reshape(2, 2, -1)[..., is_compared].mean(axis=-1)
    columns = rows.as_dict()
    for kind, name in enumerate(("fp", "fdp")):
        np.testing.assert_allclose(columns[f"{name}_start"], start[:, kind])
        np.testing.assert_allclose(columns[name], start[:, kind] + exact[:, kind])
        sigma = means[:, :, kind].std(axis=0)
        np.testing.assert_allclose(columns[f"{name}_sigma"], sigma, rtol=0.03)
        np.testing.assert_allclose(columns[f"{name}_shape_sigma"], shape_sigma[:, kind], rtol=0.03)


def test_what_is_not_known_of_a_constant_leaves_the_shape_alone():
    """An information that does not hold the mean of f′ of the first site, as X leaves it open."""
    nodes = np.arange(7100.0, 7141.0, 8.0)
    n = 4 * len(nodes)
    constant = np.zeros(n)
    constant[: len(nodes)] = 1.0
    along = np.outer(constant, constant) / len(nodes)
    soft = fit_of(np.zeros(n), np.eye(n) - (1.0 - 1e-4) * along, nodes)
    firm = fit_of(np.zeros(n), np.eye(n), nodes)
    of_soft = constant_rows({"free": soft}, "Fe")
    of_firm = constant_rows({"free": firm}, "Fe")
    assert of_soft.fp_sigma[0] == pytest.approx(100.0 * of_firm.fp_sigma[0])
    assert of_firm.fp_sigma[0] == pytest.approx(len(nodes) ** -0.5)
    for name in ("fp_shape_sigma", "fdp_sigma", "fdp_shape_sigma"):
        of_both = of_soft.as_dict()[name][0], of_firm.as_dict()[name][0]
        assert of_both[0] == pytest.approx(of_both[1], rel=1e-6)


def test_without_a_node_in_the_band_there_is_no_figure():
    nodes = np.arange(7142.0, 7159.0, 8.0)
    n = 4 * len(nodes)
    rows = constant_rows({"free": fit_of(np.zeros(n), np.eye(n), nodes)}, "Fe")
    figures = [column for name, column in rows.as_dict().items() if name not in ("fit", "site")]
    assert np.isnan(figures).all()

"""What is told of curves: σ of each kind, edges and outlook, by hand-made information and
scatter.
"""

import numpy as np
import pytest

from spreadflow.analysis.curves import dispersion, expand
from spreadflow.analysis.curves.expand import FittedRest, RefinedCurves
from spreadflow.physics import anomalous
from spreadflow.recipes import curves

ENERGIES = np.arange(7062.0, 7162.0, 2.0)
CURVES = np.stack(
    [[c.real, c.imag] for c in (anomalous.shifted("Fe", shift, ENERGIES) for shift in (0.0, 2.0))]
)
FREE = dispersion.free(CURVES, ENERGIES, ENERGIES[::2])
LIT = np.tile((FREE.nodes_ev >= 7096) & (FREE.nodes_ev <= 7144), 4)
"""(theta,) all of the band that is compared; the other nodes are dark"""
INFORMATION = 25.0
"""of a lit node, e⁻²"""


def refined(p, n: int, excess: float = 1.0, dark: float = 1e-6) -> RefinedCurves:
    """Return the starting curves as if refined from n lattices, whose scores scatter by `excess`
    times the variance that their information implies. dark: information of a dark node, of that of
    a lit one.
    """
    information = np.where(LIT, INFORMATION, dark * INFORMATION)
    of_pixels = np.diag(information)
    noise = np.random.default_rng(1).standard_normal((n, len(LIT)))
    scores = noise * np.sqrt(excess * information / n)
    fisher = of_pixels + p.restraints
    return RefinedCurves(
        theta=np.zeros(len(LIT)),
        losses=np.zeros(n),
        hessian=fisher,
        of_pixels=of_pixels,
        scores=scores,
        steps=[],
    )


@pytest.mark.parametrize(("n", "kind"), [(1500, "sandwich"), (60, "scaled")])
def test_dark_ends_have_the_sigma_of_the_prior(n, kind):
    """Dark nodes have it whatever the scatter of lattices; lit ones have three times their
    variance.
    """
    fit = curves.quoted_fit(FREE, refined(FREE, n, 3.0), "sandwich")
    assert fit.kind == kind

    sigma = FREE.sigma(fit.covariance).ravel()
    np.testing.assert_allclose(sigma[~LIT], dispersion.PRIOR_E, rtol=0.01)
    np.testing.assert_allclose(np.mean(sigma[LIT] ** 2), 3.0 / INFORMATION, rtol=0.1)

    rows = curves.curve_rows({"free": fit})
    assert rows.fp_sigma.min() > 0.2
    assert rows.fp_sigma[0] == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize("n", [1500, 60])
def test_dark_ends_do_not_tell_how_many_lattices_it_takes(n):
    """Three times the variance needs three times the lattices, n of which have the information of
    0.2 e.
    """
    for kind, excess in (("sandwich", 3.0), ("fisher", 1.0)):
        fit = curves.quoted_fit(FREE, refined(FREE, n, 3.0), kind)
        found = curves.outlook({"free": fit}, ["Fe", "Fe"])
        expected = excess * n / (INFORMATION * 0.1**2)
        assert found["fp"] == pytest.approx(expected, rel=0.1)
        assert found["fdp"] == pytest.approx(expected, rel=0.1)


def test_a_constant_that_x_takes_up_does_not_tell_how_many_lattices_it_takes():
    """Pixels say nothing of the means of f′: no number of lattices brings their σ down, but that of
    the shape.
    """
    n = 60
    read = FREE.at_nodes.reshape(2, 2, -1, len(LIT))
    is_compared = (FREE.nodes_ev >= 7100) & (FREE.nodes_ev <= 7140)
    means = read[:, 0][:, is_compared].mean(axis=1)
    lost = means.T @ np.linalg.solve(means @ means.T, means)
    left = np.eye(len(LIT)) - lost
    of_known = refined(FREE, n)
    of_pixels = left @ of_known.of_pixels @ left
    of_unknown = of_known._replace(
        of_pixels=of_pixels,
        hessian=of_pixels + FREE.restraints,
        rest=FittedRest(
            hkl=np.zeros((1, 3), dtype=np.int32),
            x=np.zeros((1, 2)),
            sigma=np.ones((1, 2)),
            variance=np.ones(1),
            scatter=0.0,
            log_scale=0.0,
            largest_share=0.1,
            has_converged=True,
        ),
    )
    fits = {"free": curves.quoted_fit(FREE, of_unknown, "fisher")}
    found = curves.outlook(fits, ["Fe", "Fe"])
    shape = 1.0 - 1.0 / is_compared.sum()
    expected = shape * n / (INFORMATION * 0.1**2)
    assert found["fp"] == pytest.approx(expected, rel=0.05)
    assert found["fdp"] == pytest.approx(expected, rel=0.05)
    with_x = {"free": curves.quoted_fit(FREE, of_unknown._replace(rest=None), "fisher")}
    assert curves.outlook(with_x, ["Fe", "Fe"])["fp"] is None


def test_no_number_of_lattices_where_no_node_counts():
    """Another element, whose edge is far from the channels."""
    fits = {"free": curves.quoted_fit(FREE, refined(FREE, 60), "fisher")}
    assert curves.outlook(fits, ["Gd", "Gd"]) == {"fp": None, "fdp": None}


def test_smoothed_curves_do_not_tell_how_many_lattices_it_takes():
    """Their σ falls no further than the bias of smoothness: the curves without it tell."""
    smooth = dispersion.smooth(FREE)
    quoted, free = (curves.quoted_fit(p, refined(p, 60), "fisher") for p in (smooth, FREE))
    found = curves.outlook({"smooth": quoted, "free": free}, ["Fe", "Fe"])
    assert found == curves.outlook({"free": free}, ["Fe", "Fe"])
    assert quoted.largest_bias > 1.0 and free.largest_bias == 0.0


PAIR = dispersion.kramers_kronig(CURVES, ENERGIES, ENERGIES[15:45:3])
"""Curves of the dispersion relation: 24 unknowns."""


def drawn(rng: np.random.Generator, n: int, excess: float) -> tuple[RefinedCurves, RefinedCurves]:
    """Return curves refined from n lattices of ten pixels whose information is of unlike size, with
    `excess` times the variance that it implies; then the same with unbiased scores. True θ is zero.
    """
    strength = rng.lognormal(0.0, 0.8, size=(n, 10, 1))
    rows = strength * rng.standard_normal((n, 10, len(PAIR.names)))
    noise = np.sqrt(excess) * rng.standard_normal((n, 10))
    information = np.einsum("lrt,lru->ltu", rows, rows)
    gradients = -np.einsum("lrt,lr->lt", rows, noise)

    of_pixels = information.sum(axis=0)
    hessian = of_pixels + PAIR.restraints
    fisher = np.linalg.inv(hessian)
    theta = -fisher @ gradients.sum(axis=0)
    fit = RefinedCurves(
        theta=theta,
        losses=np.zeros(n),
        hessian=hessian,
        of_pixels=of_pixels,
        scores=gradients + information @ theta,
        steps=[],
    )
    pairs = zip(fit.scores, information, strict=True)
    unbiased = [expand.unbiased(score, of_lattice, fisher) for score, of_lattice in pairs]
    return fit, fit._replace(scores=np.array(unbiased))


@pytest.mark.parametrize(
    ("n", "excess", "kind"), [(8, 1.0, "scaled"), (8, 3.0, "scaled"), (40, 3.0, "sandwich")]
)
def test_errors_of_few_lattices_are_as_large_as_their_sigma(n, excess, kind):
    """Curves follow each of few lattices by its share, so that these scatter less about them than
    about the truth; that is undone.
    """
    rng = np.random.default_rng(0)
    pulls = []
    biased = []
    for _ in range(1200 // n):
        before, after = drawn(rng, n, excess)
        for fit, into in ((before, biased), (after, pulls)):
            quoted = curves.quoted_fit(PAIR, fit, "sandwich")
            assert quoted.kind == kind
            sigma = PAIR.sigma(quoted.covariance).ravel()
            into.append(PAIR.at_nodes @ fit.theta / sigma)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.1)
    if n == 8 and excess > 1.0:
        assert np.std(biased) > 1.4


@pytest.mark.stage
@pytest.mark.parametrize("n", [1500, 60])
def test_a_strong_restraint_is_no_noise_of_edges(n):
    """With a restraint of 0.1 e to known states the errors of edges follow from the scatter of the
    pixels, as in the free fit.
    """
    restrained = dispersion.toward(FREE, CURVES, 0.1)
    sigmas = []
    for p in (FREE, restrained):
        fit = curves.quoted_fit(p, refined(p, n, 3.0, dark=1e-2), "sandwich")
        sigmas.append(curves.edge_rows({"fit": fit}, ["Fe", "Fe"], ENERGIES).sigma_ev[0])
    assert sigmas[1] == pytest.approx(sigmas[0], rel=0.05)


@pytest.mark.stage
def test_unlike_elements_have_edges_of_their_own_and_no_difference():
    """Cobalt's is 600 eV beyond the channels: it has none, and that is said."""
    fit = curves.quoted_fit(FREE, refined(FREE, 60), "sandwich")
    like, unlike = (
        curves.edge_rows({"fit": fit}, ["Fe", other], ENERGIES) for other in ("Fe", "Co")
    )

    assert unlike.energy_ev[0] == pytest.approx(7112.0, abs=0.2)
    assert np.isfinite(like.difference_ev[0, 1])
    assert unlike.difference_ev[0, 0] == 0.0
    assert np.isnan([unlike.difference_ev[0, 1], unlike.difference_sigma_ev[1, 0]]).all()

    notes = [curves.without_edge(rows, ["A", "B"]) for rows in (like, unlike)]
    assert notes == [[], ["B: no edge within 15 eV of its metal's and within the channels"]]


def test_a_single_site_is_not_begun_from_where_it_is():
    """Swapped with itself, or like itself, it would be."""
    assert list(curves.starts(CURVES, ["Fe", "Fe"], ENERGIES)) == [
        "metallic",
        "swapped",
        "identical",
    ]
    assert list(curves.starts(CURVES[:1], ["Fe"], ENERGIES)) == ["metallic"]

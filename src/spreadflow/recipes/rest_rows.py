"""X, what scatters beside the sites' f′ and f″, in rows of tables: what was assumed of it and what
the data made of it, of each unique reflection and in shells of resolution.
"""

import numpy as np

from spreadflow.analysis.curves import rest as rests
from spreadflow.analysis.curves.rest import Rest
from spreadflow.physics import symmetry
from spreadflow.products import Spread, spread
from spreadflow.recipes.curves import QuotedFit
from spreadflow.recipes.lattice_sums import LatticeSums

SMALLEST_SUM = 1e-9
"""Σ|F|, electrons, below which no mean is formed."""


def rest_rows(fit: QuotedFit, lattices: LatticeSums) -> tuple[spread.Reflections, spread.Shells]:
    """Return the tables `reflections` and `shells`, which are empty where X is that of the model.
    Collective.
    """
    rest = lattices.rest
    if rest is None:
        return Spread.reflections.empty(), Spread.shells.empty()
    reflections = _reflections(fit, lattices, rest)
    first = rests.prior(rest, lattices.first_variance(rest)).variance
    return reflections, _shells(reflections, np.sqrt(first))


def _reflections(fit: QuotedFit, lattices: LatticeSums, rest: Rest) -> spread.Reflections:
    """Return the table `reflections`. Collective."""
    refined = fit.refined
    fitted = refined.rest
    assert fitted is not None, "refined with the curves, where X is unknown"
    operations = symmetry.group(lattices.unknown.space_group).operations()
    is_centric = operations.centric_flag_array(rest.hkl.astype(np.int32))
    theta = refined.theta
    start = lattices.mean_factors(fit.p, np.zeros_like(theta), np.zeros_like(fitted.x))
    F = lattices.mean_factors(fit.p, theta, fitted.x)
    is_unknown = rest.is_unknown
    a, b = np.where(is_unknown, fitted.x, np.nan).T
    a_sigma, b_sigma = fitted.sigma.T
    return Spread.reflections(
        hkl=rest.hkl,
        d=rest.d,
        is_centric=np.asarray(is_centric, dtype=bool),
        shell=rest.shell,
        n_shoeboxes=lattices.n_shoeboxes(),
        f_model=np.abs(rest.model),
        prior_sigma=np.sqrt(rests.prior(rest, fitted.variance).variance),
        a=a,
        a_sigma=a_sigma,
        b=b,
        b_sigma=b_sigma,
        f_start=np.abs(start),
        f=np.abs(F),
        phase_deg=np.rad2deg(np.angle(F * np.conj(start))),
    )


def _shells(reflections: spread.Reflections, first_sigma: np.ndarray) -> spread.Shells:
    """Return the table `shells`.

    first_sigma: (reflection,) standard deviation of X about the model's with which the search for
    it began, electrons.
    """
    shell = reflections.shell.astype(np.int64)
    n_shells = int(shell.max(initial=-1)) + 1
    of_shells = [shell == number for number in range(n_shells)]

    def each(figure, *columns: np.ndarray) -> np.ndarray:
        rows = [figure(*(column[chosen] for column in columns)) for chosen in of_shells]
        return np.array(rows, dtype=np.float64)

    return Spread.shells(
        d_max=each(np.max, reflections.d),
        d_min=each(np.min, reflections.d),
        n=np.array([chosen.sum() for chosen in of_shells], dtype=np.int64),
        model_rms=each(_root_mean_square, reflections.f_model),
        first_rms=each(_root_mean_square, first_sigma),
        prior_rms=each(_root_mean_square, reflections.prior_sigma),
        a_rms=each(_root_mean_square, reflections.a),
        b_rms=each(_root_mean_square, reflections.b),
        correlation=each(_correlation, reflections.f, reflections.f_start),
        phase_moved_deg=each(_weighted_mean, reflections.f, np.abs(reflections.phase_deg)),
    )


def _root_mean_square(values: np.ndarray) -> float:
    """Return the root of the mean square of the values that are known; NaN where none is."""
    known = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(known**2))) if len(known) else np.nan


def _correlation(values: np.ndarray, others: np.ndarray) -> float:
    """Return Pearson's correlation; NaN where either does not vary."""
    if len(values) < 2 or np.ptp(values) == 0.0 or np.ptp(others) == 0.0:
        return np.nan
    return float(np.corrcoef(values, others)[0, 1])


def _weighted_mean(weights: np.ndarray, values: np.ndarray) -> float:
    """Return the mean of values with weights, electrons; NaN where these are none."""
    total = float(weights.sum())
    return float(weights @ values) / total if total > SMALLEST_SUM else np.nan

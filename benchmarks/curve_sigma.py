"""Are σ of curves honest with few lattices, and across the edge where curves are smoothed?

Lattices are drawn as numbers: a few spots of unlike brightness, each of which sees 1.5 eV (σ) of a
pulse of spikes. Pixels scatter with three times the variance that their weights stand for. Figures
are root mean squares of (curve − truth)/σ, which should be 1.
"""

import argparse
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

import recorded
from spreadflow.analysis.curves import dispersion, expand
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import RefinedCurves
from spreadflow.physics import anomalous
from spreadflow.recipes import curves

ENERGIES = 7070.5 + np.arange(100.0)
NODES = ENERGIES[::2]
BAND_EV = (7100.0, 7140.0)
"""Nodes that are scored, eV."""

EDGE_EV = (7112.0, 7124.0)
"""Those across the edge."""

EXCESS = 3.0
"""Variance of a pixel over that of its weight."""

BRIGHTNESS = {"weak": 0.03, "strong": 0.3}
"""How much a spot says, by name."""

N_SPOTS = 10
N_PIXELS = 8


def sites(*states: str) -> np.ndarray:
    """Return curves (site, 2, channel) of iron."""
    complex_curves = np.array([anomalous.site("Fe", state, ENERGIES) for state in states])
    return np.stack([complex_curves.real, complex_curves.imag], axis=1)


TRUE = sites("oxidized", "reduced")
START = TRUE.mean(axis=0)[None].repeat(2, axis=0)


def lattice(rng: np.random.Generator, brightness: float) -> np.ndarray:
    """Return the derivatives (pixel, value) of the pixels of a lattice by the curves, in σ."""
    envelope = np.exp(-0.5 * ((ENERGIES - 7120.0 - 4.0 * rng.standard_normal()) / 11.0) ** 2)
    pulse = envelope * rng.gamma(1.0, size=len(ENERGIES)) * rng.lognormal(0.0, 0.8)
    centres = 7120.0 + 13.0 * rng.standard_normal((N_SPOTS, 1))
    energy_of_pixel = centres + 0.7 * (np.arange(N_PIXELS) - 3.5)
    window = np.exp(-0.5 * ((ENERGIES - energy_of_pixel[:, :, None]) / 1.5) ** 2)
    of_spot = rng.lognormal(0.0, 1.2, (N_SPOTS, 1, 1, 1)) * rng.standard_normal((N_SPOTS, 1, 4, 1))
    rows = brightness * of_spot * (np.sqrt(pulse) * window)[:, :, None]
    return rows.reshape(N_SPOTS * N_PIXELS, -1)


def refined(
    p: Parametrisation, rows: np.ndarray, noise: np.ndarray
) -> tuple[RefinedCurves, np.ndarray]:
    """Return the curves of lattices, and their unbiased scores.

    rows: (lattice, pixel, value), noise: (lattice, pixel).
    """
    by_theta = rows @ p.basis
    information = np.einsum("lpt,lpu->ltu", by_theta, by_theta)
    data = rows @ (TRUE - p.reference).ravel() + noise
    pulled = np.einsum("lpt,lp->lt", by_theta, data)
    of_pixels = information.sum(axis=0)
    hessian = of_pixels + p.restraints
    right = pulled.sum(axis=0) + p.rows.T @ (p.precision * p.target)
    theta = np.linalg.solve(hessian, right)
    scores = information @ theta - pulled
    fit = RefinedCurves(theta, np.zeros(len(rows)), hessian, of_pixels, scores, [])
    pairs = zip(scores, information, strict=True)
    unbiased = [expand.unbiased(score, of_lattice, fit.fisher) for score, of_lattice in pairs]
    return fit, np.array(unbiased)


class Measured(NamedTuple):
    """Figures of sets of lattices."""

    kind: str
    """which σ is quoted"""
    rms_e: float
    """of the errors over the band"""
    pulls: list[float]
    """over the band and across the edge, without the corrections; the same with them"""


def measured(p: Parametrisation, brightness: float, n: int, n_sets: int) -> Measured:
    """Return the figures of sets of n lattices each."""
    rng = np.random.default_rng(1)
    true = p._replace(reference=TRUE).reference_at_nodes
    errors = []
    before = []
    after = []
    for _ in range(n_sets):
        rows = np.array([lattice(rng, brightness) for _ in range(n)])
        noise = np.sqrt(EXCESS) * rng.standard_normal(rows.shape[:2])
        fit, unbiased = refined(p, rows, noise)
        plain = curves.quoted_fit(p, fit, "sandwich")
        plain = plain._replace(bias=np.zeros_like(plain.bias))
        quoted = curves.quoted_fit(p, fit._replace(scores=unbiased), "sandwich")
        deviation = (p.at_nodes @ fit.theta).reshape(true.shape)
        errors.append(p.reference_at_nodes + deviation - true)
        before.append(errors[-1] / p.sigma(plain.covariance))
        after.append(errors[-1] / p.sigma(quoted.covariance))
    ranges = (BAND_EV, EDGE_EV)
    pulls = [rms_within(of_sets, ends) for of_sets in (before, after) for ends in ranges]
    return Measured(quoted.kind, rms_within(errors, BAND_EV), pulls)


def rms_within(of_sets: list[np.ndarray], ends_ev: tuple[float, float]) -> float:
    """Return the root mean square of values (site, 2, node) of sets over the nodes of a range."""
    low, high = ends_ev
    values = np.array(of_sets)[..., (low <= NODES) & (high >= NODES)]
    return float(np.sqrt(np.mean(values**2)))


def main() -> None:
    """Print the pulls of each fit, without the corrections and as quoted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lattices", type=int, nargs="*", default=[20, 50, 100, 200])
    parser.add_argument("--total", type=int, default=600, help="lattices of all sets together")
    parser.add_argument("--json", type=Path, help="where the figures are kept")
    args = parser.parse_args()
    free = dispersion.free(START, ENERGIES, NODES)
    fits = {
        "free": free,
        "kramers_kronig": dispersion.kramers_kronig(START, ENERGIES, NODES),
        "smooth": dispersion.smooth(free),
    }
    columns = ("r.m.s./e", "before", "edge", "now", "edge")
    print(f"{'spots':<8}{'lattices':<10}{'fit':<16}{'σ':<10}", *(f"{c:>8}" for c in columns))
    rows: dict[str, dict] = {}
    for (spots, brightness), n, (fit, p) in product(
        BRIGHTNESS.items(), args.lattices, fits.items()
    ):
        figures = measured(p, brightness, n, max(4, args.total // n))
        rows.setdefault(f"{spots}, {n}", {})[fit] = figures._asdict()
        numbers = (figures.rms_e, *figures.pulls)
        cells = (f"{number:>8.2f}" for number in numbers)
        print(f"{spots:<8}{n:<10}{fit:<16}{figures.kind:<10}", *cells, flush=True)
    if args.json:
        recorded.save(args.json, "curve_sigma", rows)


if __name__ == "__main__":
    main()

"""What curves and X are judged by: the likelihood of all pixels with X integrated out, and its
exact gradient.

Φ = −ln L + ½ Σ x²P + ½ Σ ln det(B + P) + restraints of the curves, to which two terms belong that
Laplace's method at fixed lattices forgets.

Lattices' scales are eliminated, and B of a lattice goes as the square of its scale: each ln scale u
is under the pull N u, N = Σ tr(C B) over its reflections, C = (B + P)⁻¹. Without it the common
scale of X and curves ends 15 % low.

Across F the posterior of X is an arc about the start of the sites' F, which is shorter than a line
where |F| is less than |M|, M the model's: ¼ τ ln((|M|² + S/2)/(|F|² + S/2)), τ being 1 where the
pixels say one of a and b alone.
"""

from typing import NamedTuple

import numpy as np

from spreadflow.analysis.curves import loops
from spreadflow.analysis.curves.columns import Columns
from spreadflow.analysis.curves.dispersion import Parametrisation
from spreadflow.analysis.curves.expand import complex_curves
from spreadflow.analysis.curves.rest import Add, Prior, Rest

SCALE_HOLD = 1e-3
"""Standard deviation of ln Σ|F|² about ln Σ(|M|² + S) where it is held."""


class Problem(NamedTuple):
    """Lattices, and what of F is unknown."""

    columns: Columns
    """of the lattices that this rank holds"""
    rest: Rest
    p: Parametrisation
    scale: int
    """number of the lattices' unknown ln scale, −1 where they have none"""
    is_integrated: bool
    """X is integrated out; otherwise it is where it is likeliest"""
    start_square: float
    """Σ|M|² of the reflections that were recorded, M the F of the start, electrons²"""
    site_origin: np.ndarray
    """(site unknown,) where g of the sites and its derivatives are taken"""
    scale_sigma: float
    """standard deviation of ln Σ|F|² about ln Σ(|M|² + S): `SCALE_HOLD`, or infinite where it is
    left to the pixels
    """
    add: Add
    """sum over ranks"""

    def of_sites(self, theta: np.ndarray) -> np.ndarray:
        """Return the unknowns of sites (site unknown,), the last of θ, less where g is taken."""
        return theta[len(theta) - len(self.site_origin) :] - self.site_origin


class Held(NamedTuple):
    """What stays as it is in a step."""

    pulls: np.ndarray
    """(lattice,) N"""
    arc: np.ndarray
    """(reflection,) τ"""


class Point(NamedTuple):
    """Curves and X, and what they are worth."""

    theta: np.ndarray
    """(parameter,)"""
    x: np.ndarray
    """(reflection, 2) a and b"""
    value: float
    """Φ, with what is held"""
    losses: np.ndarray
    """(lattice,) −ln L of the lattices of this rank"""
    by_theta: np.ndarray
    """(parameter,) gradient"""
    by_x: np.ndarray
    """(reflection, 2) gradient"""
    information: np.ndarray
    """(reflection, 6) as `loops.information`: B, elements aa, ab, bb; Σ GJ; Σ G"""
    covariance: np.ndarray
    """(reflection, 3) C = (B + P)⁻¹"""
    bend: np.ndarray
    """(reflection, 2, 2) second derivatives of Φ by a and b that B + P leaves out"""
    held: Held
    forces: np.ndarray
    """(column,) complex: of −ln L and the determinants on F of the columns of this rank"""
    slopes: np.ndarray
    """(column,) of −ln L alone by |F|² of these"""
    on_curves: np.ndarray
    """(reflection,) complex: Φ changes by Re(w* dF) where curves move F in the mean light"""
    log_scale: float
    """ln of Σ|F|² over Σ(|M|² + S)"""

    @property
    def is_seen(self) -> np.ndarray:
        """(reflection,) whether the pixels say anything about it"""
        return self.information[:, 0] > 0.0


def mean_factors(problem: Problem, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return F (reflection,) of the unique reflections in the mean light."""
    rest = problem.rest._replace(groups=mean_groups(problem, theta))
    return rest.in_mean_light(complex_curves(problem.p.curves(theta)), x)


def mean_groups(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Return g (reflection, site) with the sites where θ has them."""
    groups = problem.rest.groups.copy()
    of_each = problem.rest.site_slopes * problem.of_sites(theta)
    np.add.at(groups.T, problem.columns.site_of, of_each.T)
    return groups


def point(
    problem: Problem, theta: np.ndarray, x: np.ndarray, prior: Prior, held: Held | None = None
) -> Point:
    """Return what curves and X are worth. Collective.

    held: of the point from which a step begins; None = that of this point.
    """
    p = problem.p
    rest = problem.rest
    f = complex_curves(p.curves(theta))
    sites = problem.of_sites(theta)
    information = problem.add(loops.information(problem.columns, f, x, sites, rest.n))
    covariance, log_determinants = _inverse(information, prior.precision)
    pulls = np.empty(0) if held is None else held.pulls
    pixels = _of_pixels(problem, theta, x, covariance, pulls)
    held_now = held or Held(pixels.pulls, _arc(rest, information, covariance))
    means = _of_means(problem, theta, x, prior, information, covariance, held_now.arc)

    by_theta, by_x = pulled(problem, theta, means.on_curves, means.on_x)
    by_theta += pixels.by_theta
    by_x += pixels.by_x + prior.precision * x
    bend = means.bend + pixels.bend[:, None, None] * np.eye(2)
    away = p.rows @ theta - p.target
    by_theta += p.rows.T @ (p.precision * away)
    value = pixels.loss + means.value
    value += 0.5 * float(np.sum(prior.precision * x**2) + p.precision @ away**2)
    if problem.is_integrated:
        value += 0.5 * float(log_determinants.sum())
    return Point(
        theta=theta,
        x=x,
        value=value,
        losses=pixels.losses,
        by_theta=by_theta,
        by_x=np.where(rest.is_unknown, by_x, 0.0),
        information=information,
        covariance=covariance,
        bend=np.where(rest.is_unknown[:, :, None] & rest.is_unknown[:, None, :], bend, 0.0),
        held=held_now,
        forces=pixels.forces,
        slopes=pixels.slopes,
        on_curves=means.on_curves,
        log_scale=means.log_scale,
    )


class _Pixels(NamedTuple):
    """Terms of Φ that shoeboxes decide, with those of the determinants."""

    loss: float
    """−ln L of the lattices of all ranks"""
    by_theta: np.ndarray
    """(parameter,)"""
    by_x: np.ndarray
    """(reflection, 2)"""
    bend: np.ndarray
    """(reflection,) second derivative by a, and by b, that Gauss and Newton leave out"""
    losses: np.ndarray
    """(lattice,) −ln L of the lattices of this rank, as all that follows"""
    pulls: np.ndarray
    """(lattice,) N"""
    forces: np.ndarray
    """(column,) complex, on F"""
    slopes: np.ndarray
    """(column,) of −ln L alone by |F|²"""


def _of_pixels(
    problem: Problem, theta: np.ndarray, x: np.ndarray, covariance: np.ndarray, pulls: np.ndarray
) -> _Pixels:
    """Return the terms of shoeboxes. Collective.

    covariance: (reflection, 3) C; pulls: (lattice,) N that lattices are held under, empty where it
    is that of this point.
    """
    columns = problem.columns
    n = problem.rest.n
    f = complex_curves(problem.p.curves(theta))
    sites = problem.of_sites(theta)
    scale = -1
    in_forces = np.zeros_like(covariance)
    if problem.is_integrated:
        scale = problem.scale
        in_forces = covariance
    losses, pulls_here, forces, slopes = loops.forces(columns, f, x, sites, in_forces, scale, pulls)
    one_row = np.zeros_like(columns.reflection)
    by_value, by_site = loops.scores(columns, forces, f, sites, one_row, 1)
    by_x = np.stack(
        [_by_unknown(columns, forces, n, slope) for slope in (columns.along, columns.across)],
        axis=1,
    )
    bend = 2.0 * np.bincount(columns.reflection, slopes * np.abs(columns.along) ** 2, n)
    own = np.concatenate([[losses.sum()], by_x.ravel(), bend, by_site.ravel(), by_value.ravel()])
    ends = np.cumsum([1, 2 * n, n, len(sites)])
    loss, by_x, bend, by_site, by_value = np.split(problem.add(own), ends)
    by_theta = problem.p.basis.T @ by_value
    by_theta[len(theta) - len(sites) :] += by_site
    return _Pixels(
        float(loss[0]), by_theta, by_x.reshape(n, 2), bend, losses, pulls_here, forces, slopes
    )


def _by_unknown(columns: Columns, forces: np.ndarray, n: int, slope: np.ndarray) -> np.ndarray:
    """Return the gradient (reflection,) by a or b of forces (column,) on F; slope: (column,) the
    derivative of F.
    """
    return np.bincount(columns.reflection, 2.0 * (np.conj(slope) * forces).real, n)


def scores(problem: Problem, at_rest: Point, follow: np.ndarray) -> np.ndarray:
    """Return the gradients (reflection, parameter) of Φ by the curves that each reflection has,
    X following these, without restraints. Collective.

    The error of a model is one draw for each reflection: their scatter tells of it. follow:
    (2·reflection, parameter) how far X falls as a parameter rises. An X that is not quite at rest
    has a slope of its own, which would pass for a slope of the curves: a few of them could make σ
    ten times too large.
    """
    columns = problem.columns
    rest = problem.rest
    p = problem.p
    f = complex_curves(p.curves(at_rest.theta))
    sites = problem.of_sites(at_rest.theta)
    of_values, of_sites = loops.scores(
        columns, at_rest.forces, f, sites, columns.reflection, rest.n
    )
    of_pixels = of_values.reshape(rest.n, -1) @ p.basis
    of_pixels[:, of_pixels.shape[1] - len(sites) :] += of_sites
    of_means = mean_slopes(problem, at_rest.theta, np.conj(at_rest.on_curves))
    of_x = np.einsum("hi,hit->ht", at_rest.by_x, follow.reshape(rest.n, 2, -1))
    return problem.add(of_pixels) + of_means - of_x


class _Means(NamedTuple):
    """Terms of Φ that F in the mean light decides."""

    value: float
    on_x: np.ndarray
    """(reflection,) complex: Φ changes by Re(w* dF) where X moves F"""
    on_curves: np.ndarray
    """the same where curves do"""
    bend: np.ndarray
    """(reflection, 2, 2) second derivatives by a and b, with those of the determinant"""
    log_scale: float


def _of_means(
    problem: Problem,
    theta: np.ndarray,
    x: np.ndarray,
    prior: Prior,
    information: np.ndarray,
    covariance: np.ndarray,
    arc: np.ndarray,
) -> _Means:
    """Return the terms of arcs and of the held scale."""
    rest = problem.rest
    F = mean_factors(problem, theta, x)
    value = 0.0
    on_x = np.zeros(rest.n, dtype=np.complex128)
    on_curves = np.zeros(rest.n, dtype=np.complex128)
    bend = np.zeros((rest.n, 2, 2))
    if problem.is_integrated:
        M = F - rest.along * (x[:, 0] + 1j * x[:, 1])
        F_square = np.abs(F) ** 2 + 0.5 * prior.variance
        M_square = np.abs(M) ** 2 + 0.5 * prior.variance
        value += 0.25 * float(arc @ np.log(M_square / F_square))
        on_x -= 0.5 * arc * F / F_square
        on_curves += on_x + 0.5 * arc * M / M_square
        bend += _bend_of_determinant(information, covariance)
        bend += _bend_of_arc(rest, arc, F, F_square)

    is_seen = information[:, 0] > 0.0
    total = float(np.sum(np.abs(F[is_seen]) ** 2))
    target = problem.start_square + float(prior.variance[is_seen].sum())
    log_scale = float(np.log(total / target)) if target > 0.0 else 0.0
    sigma = problem.scale_sigma
    if np.isfinite(sigma):
        value += 0.5 * (log_scale / sigma) ** 2
        hold = np.where(is_seen, 2.0 * log_scale / sigma**2 / total * F, 0.0)
        on_x += hold
        on_curves += hold
    return _Means(value, on_x, on_curves, bend, log_scale)


def _arc(rest: Rest, information: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return τ (reflection,): 1 where the pixels determine one of a and b, 0 where both or neither,
    or where X is not complex.
    """
    known = covariance[:, 0] * information[:, 0] + covariance[:, 2] * information[:, 2]
    known += 2.0 * covariance[:, 1] * information[:, 1]
    return np.where(rest.freedom > 1, np.clip(np.minimum(known, 2.0 - known), 0.0, 1.0), 0.0)


def pulled(
    problem: Problem, theta: np.ndarray, on_curves: np.ndarray, on_x: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return gradients by θ (parameter,) and X (reflection, 2) of what changes by Re(w* dF), F in
    the mean light.

    on_curves, on_x: (reflection,) w where curves and X move F.
    """
    rest = problem.rest
    along = np.conj(on_x) * rest.along
    by_x = np.stack([along.real, -along.imag], axis=1)
    by_theta = mean_slopes(problem, theta, np.conj(on_curves)).sum(axis=0)
    return by_theta, np.where(rest.is_unknown, by_x, 0.0)


def mean_slopes(problem: Problem, theta: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return Re(factor·dF/dθ) (reflection, parameter), F in the mean light; factor: (reflection,)
    complex.
    """
    rest = problem.rest
    p = problem.p
    n_sites, _, n_channels = p.reference.shape
    product = factor[:, None] * mean_groups(problem, theta)
    pairs = np.stack([product.real, -product.imag], axis=2).reshape(rest.n, -1)
    basis = p.basis.reshape(2 * n_sites, n_channels, -1)
    by_theta = pairs @ np.einsum("kct,c->kt", basis, rest.light)
    site_of = problem.columns.site_of
    mean = complex_curves(p.curves(theta)) @ rest.light
    by_site = factor[:, None] * rest.site_slopes * mean[site_of]
    by_theta[:, len(theta) - len(site_of) :] += by_site.real
    return by_theta


def _bend_of_determinant(information: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Return the second derivatives (reflection, 2, 2) of ½ ln det(B + P) by a and b.

    With J = 2(a, b) + what does not depend on them: 4[(g − tᵀCt) C − Ct tᵀC], t = Σ GJ, g = Σ G.
    """
    C = covariance[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
    t = information[:, 3:5]
    turned = np.einsum("hij,hj->hi", C, t)
    left = information[:, 5] - np.einsum("hi,hi->h", t, turned)
    return 4.0 * (left[:, None, None] * C - turned[:, :, None] * turned[:, None, :])


def _bend_of_arc(rest: Rest, arc: np.ndarray, F: np.ndarray, F_square: np.ndarray) -> np.ndarray:
    """Return the second derivatives (reflection, 2, 2) of −¼ τ ln(|F|² + S/2) by a and b.

    arc: (reflection,) τ; F: (reflection,); F_square: (reflection,) |F|² + S/2.
    """
    turned = np.conj(rest.along) * F
    of_f = np.stack([turned.real, turned.imag], axis=1)
    outer = of_f[:, :, None] * of_f[:, None, :]
    share = np.eye(2) - 2.0 * outer / F_square[:, None, None]
    return -0.5 * (arc / F_square)[:, None, None] * share


def _inverse(information: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (B + P)⁻¹ (reflection, 3) and its ln det(B + P) (reflection,).

    information: (reflection, 6), of which B is the first three; precision: (reflection, 2) P.
    """
    aa = information[:, 0] + precision[:, 0]
    ab = information[:, 1]
    bb = information[:, 2] + precision[:, 1]
    determinant = aa * bb - ab * ab
    return np.stack([bb, -ab, aa], axis=1) / determinant[:, None], np.log(determinant)

"""Fisher scoring with planes eliminated: beside the whole normal equations, beside differences, and
draw after draw.
"""

import numpy as np
import pytest
from scipy import stats

from spreadflow.analysis import least_squares
from spreadflow.analysis.least_squares import Fit
from spreadflow.analysis.pixels import solve
from spreadflow.analysis.pixels.likelihood import pixelwise
from spreadflow.models import Noise

NOISE = Noise(1.0, 0.0)
TRUTH = np.array([0.1, -0.2, 0.05])
FREE = solve.Restraint(np.zeros(3), np.zeros(3))


class Spots:
    """A spot in each of n shoeboxes with sloped backgrounds. All share ln height, ln width and the
    shift along the fast axis, which are the unknowns.
    """

    def __init__(self, n: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(7, 12, (n, 2))
        self.count = np.array([fast * slow for fast, slow in sizes])
        self.start = np.concatenate([[0], np.cumsum(self.count)])

        xy = np.concatenate([self._grid(size) for size in sizes])
        shifts = rng.uniform(-0.5, 0.5, (n, 2)).repeat(self.count, axis=0)
        self.x, self.y = (xy + shifts).T
        self.height = (50.0 * rng.exponential(size=n) + 5.0).repeat(self.count)

        self.plane = np.column_stack([np.ones(len(xy)), xy / solve.SCALE_PX])
        levels = rng.uniform(10.0, 30.0, n)
        slopes = rng.uniform(-3.0, 3.0, (n, 2))
        self.planes = np.column_stack([levels, slopes])

    @staticmethod
    def _grid(size: np.ndarray) -> np.ndarray:
        """(pixel, 2) places about the middle of a shoebox, px."""
        along = [np.arange(m) - 0.5 * (m - 1) for m in size]
        return np.stack(np.meshgrid(*along), axis=-1).reshape(-1, 2)

    def __call__(self, u, per_box=1.0):
        x = self.x - u[2]
        width = 1.5 * np.exp(u[1])
        square = (x**2 + self.y**2) / width**2
        exponent = u[0] - 0.5 * (x**2 + self.y**2) / width**2
        value = per_box * self.height * np.exp(exponent)
        return value, np.column_stack([value, value * square, value * x / width**2])

    def expected(self, per_box=1.0):
        return self(TRUTH, per_box)[0] + solve.backgrounds(self.planes, self.data(None))

    def data(self, photons) -> solve.Data:
        return solve.Data(photons, self.plane, self.start)

    def drawn(self, rng, per_box=1.0) -> solve.Data:
        expected = self.expected(per_box)
        return self.data(rng.poisson(expected) + rng.standard_normal(len(expected)))

    def objective(self, data: solve.Data, **settings) -> solve.Objective:
        """−ln L of these pixels, without restraints unless the settings say otherwise."""
        default = {"bragg": self, "data": data, "noise": NOISE, "restraint": FREE}
        return solve.Objective(**default | settings)


def fitted(spots: Spots, data: solve.Data, target="normal") -> Fit[solve.Point]:
    """The fit from zero and level planes."""
    planes = np.tile([20.0, 0.0, 0.0], (len(spots.count), 1))
    return solve.fit(spots.objective(data, target=target), np.zeros(3), planes)


def pulls_of(point: solve.Point) -> list[np.ndarray]:
    """Errors over Fisher's σ, and over those of the sandwich, each (unknown,)."""
    error = point.unknowns[:3] - TRUTH
    return [error / np.sqrt(np.diag(covariance)) for covariance in least_squares.covariances(point)]


def test_planes_eliminated_are_the_whole_normal_equations_solved_at_once():
    n = 6
    spots = Spots(n)
    data = spots.drawn(np.random.default_rng(2))
    unknowns = TRUTH + 0.05
    point = solve.evaluate(spots.objective(data), unknowns, spots.planes + 1.0)

    by_pixel = pixelwise(data.photons, point.model, NOISE)
    jacobian = np.zeros((len(data.photons), 3 + 3 * n))
    jacobian[:, :3] = spots(unknowns)[1]
    for box in range(n):
        pixels = slice(data.start[box], data.start[box + 1])
        jacobian[pixels, 3 + 3 * box : 6 + 3 * box] = data.plane[pixels]
    whole = (jacobian * by_pixel.information[:, None]).T @ jacobian
    moves = -np.linalg.solve(whole, jacobian.T @ by_pixel.score)

    step = -np.linalg.solve(point.hessian, point.gradient)
    np.testing.assert_allclose(step, moves[:3], rtol=1e-4)
    plane_moves = -point.plane_coupling @ step - point.plane_step
    np.testing.assert_allclose(plane_moves, moves[3:].reshape(n, 3), rtol=1e-4, atol=1e-5)

    covariance = np.linalg.inv(whole)[:3, :3]
    np.testing.assert_allclose(np.linalg.inv(point.hessian), covariance, rtol=1e-4)
    promised = point.nuisance_gain - point.gradient @ step - 0.5 * step @ point.hessian @ step
    assert promised == pytest.approx(0.5 * moves @ whole @ moves, rel=1e-4)


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_the_gradient_is_the_slope_of_the_loss_where_planes_are_at_rest(target):
    spots = Spots(5)
    data = spots.drawn(np.random.default_rng(3))
    restraint = solve.Restraint(np.array([0.3, 0.0, 0.0]), np.array([7.0, 0.0, 0.0]))
    objective = spots.objective(data, restraint=restraint, target=target)
    u = TRUTH + 0.02
    planes = spots.planes
    for _ in range(30):
        planes = planes - solve.evaluate(objective, u, planes).plane_step

    def loss(u):
        return solve.evaluate(objective, u, planes).loss

    slopes = [(loss(u + d) - loss(u - d)) / 2e-5 for d in 1e-5 * np.eye(3)]
    gradient = solve.evaluate(objective, u, planes).gradient
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_what_is_quoted_is_how_draws_scatter(target):
    """80 draws of 60 shoeboxes: pulls of Fisher's σ and of the sandwich have unit spread and no
    mean.
    """
    spots = Spots(60)
    rng = np.random.default_rng(4)
    pulls = []
    for _ in range(80):
        fit = fitted(spots, spots.drawn(rng), target)
        assert fit.is_converged
        pulls.append(pulls_of(fit.point))
    assert (np.abs(np.mean(pulls, axis=0)) < 4 / np.sqrt(80)).all()
    np.testing.assert_allclose(np.std(pulls, axis=0), 1.0, atol=4 / np.sqrt(160))


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_shoeboxes_without_background_converge_and_pull_nothing(target):
    """With readout noise alone half of the planes end below zero."""
    spots = Spots(60)
    rng = np.random.default_rng(7)
    spots.planes[::2] = 0.0
    spots.height[np.repeat(np.arange(60) % 4 == 0, spots.count)] = 0.0
    pulls = []
    for _ in range(20):
        fit = fitted(spots, spots.drawn(rng), target)
        assert fit.is_converged
        pulls.append(pulls_of(fit.point)[0])
    assert (fit.point.planes[::4, 0] < 0).sum() >= 3
    np.testing.assert_allclose(np.std(pulls, axis=0), 1.0, atol=4 / np.sqrt(40))
    assert (np.abs(np.mean(pulls, axis=0)) < 4 / np.sqrt(20)).all()


def test_the_sandwich_is_fishers_where_the_model_is_right():
    spots = Spots(2000)
    fit = fitted(spots, spots.drawn(np.random.default_rng(5)))
    fisher, sandwich = least_squares.covariances(fit.point)
    np.testing.assert_allclose(np.diag(sandwich), np.diag(fisher), rtol=0.2)


def test_the_sandwich_is_honest_where_shoeboxes_are_wrong():
    """The heights of single shoeboxes are wrong by 30 %: Fisher's σ is far too small, the
    sandwich's is right.
    """
    spots = Spots(60)
    rng = np.random.default_rng(6)
    pulls = []
    for _ in range(80):
        wrong = np.exp(0.3 * rng.standard_normal(60)).repeat(spots.count)
        pulls.append(pulls_of(fitted(spots, spots.drawn(rng, wrong)).point))
    fisher, sandwich = np.std(pulls, axis=0)
    assert fisher[0] > 3.0
    assert sandwich[0] == pytest.approx(1.0, abs=0.4)


def test_the_sandwich_is_what_leaving_out_one_shoebox_after_the_other_says():
    """This holds also where one of them has nearly all the information."""
    spots = Spots(12)
    spots.height[spots.start[4] : spots.start[5]] *= 100.0
    wrong = np.exp(0.1 * np.arange(12) - 0.5).repeat(spots.count)
    data = spots.drawn(np.random.default_rng(11), wrong)
    whole = fitted(spots, data).point
    unknowns = []
    for box in range(12):
        without = _without(spots, data, np.arange(12) == box)
        unknowns.append(solve.fit(without, whole.unknowns, whole.planes).point.unknowns)
    moved = np.array(unknowns) - whole.unknowns
    jackknife = 11 / 12 * moved.T @ moved
    fisher, sandwich = least_squares.covariances(whole)
    sigma = np.sqrt(np.diag(sandwich))
    np.testing.assert_allclose(sigma, np.sqrt(np.diag(jackknife)), rtol=0.3)
    plain = fisher @ (whole.scores.T @ whole.scores) @ fisher
    assert (np.diag(plain) < 0.5 * np.diag(sandwich)).any()


def _without(spots: Spots, data: solve.Data, left_out: np.ndarray) -> solve.Objective:
    """−ln L without the pixels of some shoeboxes; left_out: (box,) bool."""
    keep = np.repeat(~left_out, spots.count)
    return _cut(spots, data, keep, np.where(left_out, 0, spots.count))


def _cut(spots: Spots, data: solve.Data, keep: np.ndarray, count: np.ndarray) -> solve.Objective:
    """−ln L of the pixels `keep` (pixel,) bool, of which each shoebox has `count` (box,)."""
    start = np.concatenate([[0], np.cumsum(count)])
    kept = solve.Data(data.photons[keep], data.plane[keep], start)

    def bragg(u):
        return tuple(values[keep] for values in spots(u))

    return spots.objective(kept, bragg=bragg)


def test_the_loss_never_rises_and_far_starts_come_home():
    spots = Spots(30)
    data = spots.drawn(np.random.default_rng(7))
    objective = spots.objective(data)
    best = fitted(spots, data).point
    largest_step = np.array([0.5, 0.3, 0.5])
    for start in ([2.0, 0.0, 0.0], [-2.0, 0.5, 1.0], [0.0, -0.7, -1.0]):
        u = np.array(start)
        before = solve.evaluate(objective, u, spots.planes).loss
        fit = solve.fit(objective, u, spots.planes, largest_step=largest_step)
        assert fit.is_converged and fit.point.loss <= before
        assert fit.point.loss == pytest.approx(best.loss, abs=0.02)
    short = solve.fit(objective, np.zeros(3), spots.planes, n_iterations=1)
    assert short.n_evaluations == 1 and not short.is_converged


def test_shoeboxes_of_too_few_pixels_do_no_harm():
    """One shoebox has no pixel, and one has a single one, which its plane explains whatever the
    spot is.
    """
    spots = Spots(20)
    data = spots.drawn(np.random.default_rng(8))
    keep = np.ones(len(data.photons), bool)
    keep[spots.start[3] : spots.start[4]] = False
    keep[spots.start[7] + 1 : spots.start[8]] = False
    count = spots.count.copy()
    count[3] = 0
    count[7] = 1
    few = _cut(spots, data, keep, count)
    none = _without(spots, data, np.isin(np.arange(20), [3, 7]))
    with_few, with_none = (solve.fit(cut, np.zeros(3), spots.planes) for cut in (few, none))
    assert with_few.is_converged and with_none.is_converged
    np.testing.assert_allclose(with_few.point.unknowns, with_none.point.unknowns, atol=1e-3)


def test_a_restraint_weighs_as_a_measurement():
    """Where the pixels know nothing of an unknown it has the restraint's centre and variance; where
    they know it as well as the restraint it is the weighted mean.
    """
    spots = Spots(15)
    data = spots.drawn(np.random.default_rng(9))

    def blind(u):
        photons, derivatives = spots(u[:3])
        return photons, np.column_stack([derivatives, np.zeros(len(spots.x))])

    alone = fitted(spots, data).point
    sigma = np.sqrt(least_squares.covariances(alone)[0][0, 0])
    centre = np.array([TRUTH[0] + 3 * sigma, 0, 0, 0.7])
    precision = np.array([1 / sigma**2, 0, 0, 1 / 0.2**2])
    restraint = solve.Restraint(centre, precision)
    objective = spots.objective(data, bragg=blind, restraint=restraint)
    point = solve.fit(objective, np.zeros(4), spots.planes).point
    fisher, sandwich = least_squares.covariances(point)
    assert point.unknowns[3] == pytest.approx(0.7) and fisher[3, 3] == pytest.approx(0.2**2)
    assert sandwich[3, 3] == pytest.approx(0.2**2)
    mean = 0.5 * (alone.unknowns[0] + centre[0])
    assert point.unknowns[0] == pytest.approx(mean, abs=0.1 * sigma)
    assert fisher[0, 0] == pytest.approx(0.5 * sigma**2, rel=0.05)


def test_what_is_quoted_with_restraints_is_how_draws_scatter():
    """80 draws of 60 shoeboxes and of the centres, known as well as the pixels know them, and far
    better.
    """
    spots = Spots(60)
    rng = np.random.default_rng(12)
    fisher, _ = least_squares.covariances(fitted(spots, spots.drawn(rng)).point)
    sigma = np.sqrt(np.diag(fisher)) * [1.0, 0.1, 1.0]
    pulls = []
    for _ in range(80):
        data = spots.drawn(rng)
        restraint = solve.Restraint(TRUTH + sigma * rng.standard_normal(3), sigma**-2)
        objective = spots.objective(data, restraint=restraint)
        pulls.append(pulls_of(solve.fit(objective, np.zeros(3), spots.planes).point))
    assert (np.abs(np.mean(pulls, axis=0)) < 4 / np.sqrt(80)).all()
    np.testing.assert_allclose(np.std(pulls, axis=0), 1.0, atol=4 / np.sqrt(160))


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_lbfgs_ends_where_the_second_order_steps_do(target):
    """It looks no farther than it may, counts its evaluations, and returns its best where it has to
    stop early.
    """
    spots = Spots(30)
    evaluated = []
    data = spots.drawn(np.random.default_rng(13))

    def watched(u):
        evaluated.append(u)
        return spots(u)

    planes = np.tile([20.0, 0.0, 0.0], (30, 1))
    largest = np.array([0.3, 0.1, 0.1])
    unwatched = spots.objective(data, target=target)
    objective = unwatched._replace(bragg=watched)
    best = solve.fit(unwatched, np.zeros(3), planes, largest_step=largest)

    start = np.array([0.8, 0.3, -0.4])
    fit = solve.descend(objective, start, planes, largest_step=largest, n_iterations=100)
    assert fit.is_converged and fit.n_evaluations == len(evaluated) > best.n_evaluations
    assert fit.point.loss == pytest.approx(best.point.loss, abs=0.02)
    reach = np.abs(np.array(evaluated) - start)
    assert (reach <= solve.LBFGS_REACH * largest * (1 + 1e-12)).all()

    short = solve.descend(objective, start, planes, largest_step=largest, n_iterations=4)
    n_more = len(evaluated) - fit.n_evaluations
    assert not short.is_converged and short.n_evaluations == n_more == 4
    losses = [
        solve.descend(unwatched, u, planes, n_iterations=1).point.loss for u in evaluated[-4:]
    ]
    assert short.point.loss == pytest.approx(min(losses), abs=1e-3)

    hedged = solve.descend(unwatched, start, planes, largest_step=0.01 * largest, n_iterations=100)
    assert not hedged.is_converged and hedged.point.loss > best.point.loss + 1.0


def test_pixels_of_a_right_model_deviate_as_normal_ones_do():
    spots = Spots(100)
    data = spots.drawn(np.random.default_rng(10))
    point = fitted(spots, data).point
    z = (data.photons - point.model) / np.sqrt(point.model + 1.0)
    assert stats.kstest(z, "norm").pvalue > 1e-3

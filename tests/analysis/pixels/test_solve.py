"""Fisher scoring with planes eliminated: beside the whole normal equations, beside differences, and
draw after draw.
"""

import numpy as np
import pytest
from scipy import stats

from spreadflow.analysis.pixels import solve
from spreadflow.analysis.pixels.likelihood import Noise, pixelwise

NOISE = Noise(1.0, 0.0)
TRUTH = np.array([0.1, -0.2, 0.05])
FREE = solve.Restraint(np.zeros(3), np.zeros(3))


class Spots:
    """A spot in each of n shoeboxes: common ln height, ln width, and shift along the fast axis;
    backgrounds sloped.
    """

    def __init__(self, n: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(7, 12, (n, 2))
        at = [
            np.stack(np.meshgrid(*(np.arange(m) - 0.5 * (m - 1) for m in size)), axis=-1)
            for size in sizes
        ]
        xy, self.count = (
            np.concatenate([a.reshape(-1, 2) for a in at]),
            np.array([m[0] * m[1] for m in sizes]),
        )
        self.x, self.y = (xy + rng.uniform(-0.5, 0.5, (n, 2)).repeat(self.count, axis=0)).T
        self.height = (50.0 * rng.exponential(size=n) + 5.0).repeat(self.count)
        plane = np.column_stack([np.ones(len(xy)), xy / solve.SCALE_PX])
        self.planes = np.column_stack([rng.uniform(10.0, 30.0, n), rng.uniform(-3.0, 3.0, (n, 2))])
        self.start = np.concatenate([[0], np.cumsum(self.count)])
        self.plane = plane

    def __call__(self, u, per_box=1.0):
        x = self.x - u[2]
        width = 1.5 * np.exp(u[1])
        value = per_box * self.height * np.exp(u[0] - 0.5 * (x**2 + self.y**2) / width**2)
        square = (x**2 + self.y**2) / width**2
        return value, np.column_stack([value, value * square, value * x / width**2])

    def expected(self, per_box=1.0):
        return self(TRUTH, per_box)[0] + solve.backgrounds(self.planes, self.data(None))

    def data(self, photons) -> solve.Data:
        return solve.Data(photons, self.plane, self.start)

    def drawn(self, rng, per_box=1.0) -> solve.Data:
        expected = self.expected(per_box)
        return self.data(rng.poisson(expected) + rng.standard_normal(len(expected)))


def fitted(spots: Spots, data: solve.Data, start=None, **how) -> solve.Fit:
    start = np.zeros(3) if start is None else start
    return solve.fit(
        spots, start, np.tile([20.0, 0.0, 0.0], (len(spots.count), 1)), data, NOISE, FREE, **how
    )


def test_planes_eliminated_are_the_whole_normal_equations_solved_at_once():
    spots = Spots(6)
    n = 6
    data = spots.drawn(np.random.default_rng(2))
    point = solve.evaluate(spots, TRUTH + 0.05, spots.planes + 1.0, data, NOISE, FREE, "normal")
    of = pixelwise(data.photons, point.model, NOISE)
    jacobian = np.zeros((len(data.photons), 3 + 3 * n))
    jacobian[:, :3] = spots(TRUTH + 0.05)[1]
    for box in range(n):
        some = slice(data.start[box], data.start[box + 1])
        jacobian[some, 3 + 3 * box : 6 + 3 * box] = data.plane[some]
    whole = (jacobian * of.information[:, None]).T @ jacobian
    moves = -np.linalg.solve(whole, jacobian.T @ of.score)
    step = -np.linalg.solve(point.hessian, point.gradient)
    np.testing.assert_allclose(step, moves[:3], rtol=1e-4)
    np.testing.assert_allclose(
        -point.plane_coupling @ step - point.plane_step,
        moves[3:].reshape(n, 3),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        np.linalg.inv(point.hessian), np.linalg.inv(whole)[:3, :3], rtol=1e-4
    )
    promised = point.plane_gain - point.gradient @ step - 0.5 * step @ point.hessian @ step
    assert promised == pytest.approx(0.5 * moves @ whole @ moves, rel=1e-4)


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_the_gradient_is_the_slope_of_the_loss_where_planes_are_at_rest(target):
    spots = Spots(5)
    data = spots.drawn(np.random.default_rng(3))
    u = TRUTH + 0.02
    planes = spots.planes
    free = solve.Restraint(np.array([0.3, 0.0, 0.0]), np.array([7.0, 0.0, 0.0]))

    def at(u, planes):
        return solve.evaluate(spots, u, planes, data, NOISE, free, target)

    for _ in range(30):
        planes = planes - at(u, planes).plane_step
    slopes = [(at(u + d, planes).loss - at(u - d, planes).loss) / 2e-5 for d in 1e-5 * np.eye(3)]
    np.testing.assert_allclose(at(u, planes).gradient, slopes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_what_is_quoted_is_how_draws_scatter(target):
    """80 draws of 60 shoeboxes: pulls of Fisher's σ and of the sandwich have unit spread and no
    mean.
    """
    spots = Spots(60)
    rng = np.random.default_rng(4)
    pulls = []
    for _ in range(80):
        found = fitted(spots, spots.drawn(rng), target=target)
        assert found.is_converged
        pulls.append(
            [
                (found.point.unknowns - TRUTH) / np.sqrt(np.diag(c))
                for c in solve.covariances(found.point)
            ]
        )
    spread = np.std(pulls, axis=0)
    mean = np.mean(pulls, axis=0)
    assert (np.abs(mean) < 4 / np.sqrt(80)).all()
    np.testing.assert_allclose(spread, 1.0, atol=4 / np.sqrt(160))


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_shoeboxes_without_background_converge_and_pull_nothing(target):
    """Of readout noise alone half of the planes end below zero."""
    spots = Spots(60)
    rng = np.random.default_rng(7)
    pulls = []
    spots.planes[::2] = 0.0
    spots.height[np.repeat(np.arange(60) % 4 == 0, spots.count)] = 0.0
    for _ in range(20):
        found = fitted(spots, spots.drawn(rng), target=target)
        assert found.is_converged
        pulls.append(
            (found.point.unknowns - TRUTH) / np.sqrt(np.diag(solve.covariances(found.point)[0]))
        )
    assert (found.point.planes[::4, 0] < 0).sum() >= 3
    np.testing.assert_allclose(np.std(pulls, axis=0), 1.0, atol=4 / np.sqrt(40))
    assert (np.abs(np.mean(pulls, axis=0)) < 4 / np.sqrt(20)).all()


def test_the_sandwich_is_fishers_where_the_model_is_right():
    found = fitted(Spots(2000), Spots(2000).drawn(np.random.default_rng(5)))
    fisher, sandwich = solve.covariances(found.point)
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
        found = fitted(spots, spots.drawn(rng, wrong))
        pulls.append(
            [
                (found.point.unknowns - TRUTH) / np.sqrt(np.diag(c))
                for c in solve.covariances(found.point)
            ]
        )
    fisher, sandwich = np.std(pulls, axis=0)
    assert fisher[0] > 3.0
    assert sandwich[0] == pytest.approx(1.0, abs=0.4)


def test_the_sandwich_is_what_leaving_out_one_shoebox_after_the_other_says():
    """Also where one of them holds nearly all that is known."""
    spots = Spots(12)
    spots.height[spots.start[4] : spots.start[5]] *= 100.0
    data = spots.drawn(
        np.random.default_rng(11), np.exp(0.1 * np.arange(12) - 0.5).repeat(spots.count)
    )
    whole = fitted(spots, data).point
    found = []
    for box in range(12):
        keep = np.repeat(np.arange(12) != box, spots.count)
        count = np.where(np.arange(12) == box, 0, spots.count)
        less = solve.Data(
            data.photons[keep], data.plane[keep], np.concatenate([[0], np.cumsum(count)])
        )

        def cut(u, keep=keep):
            return tuple(a[keep] for a in spots(u))

        found.append(solve.fit(cut, whole.unknowns, whole.planes, less, NOISE, FREE).point.unknowns)
    moved = np.array(found) - whole.unknowns
    fisher, sandwich = solve.covariances(whole)
    jackknife = 11 / 12 * moved.T @ moved
    np.testing.assert_allclose(np.sqrt(np.diag(sandwich)), np.sqrt(np.diag(jackknife)), rtol=0.3)
    plain = fisher @ (whole.scores.T @ whole.scores) @ fisher
    assert (np.diag(plain) < 0.5 * np.diag(sandwich)).any()


def test_the_loss_never_rises_and_far_starts_come_home():
    spots = Spots(30)
    data = spots.drawn(np.random.default_rng(7))
    losses = []

    def watched(u):
        return spots(u)

    best = fitted(spots, data).point
    for start in ([2.0, 0.0, 0.0], [-2.0, 0.5, 1.0], [0.0, -0.7, -1.0]):
        before = solve.evaluate(
            spots, np.array(start), spots.planes, data, NOISE, FREE, "normal"
        ).loss
        found = solve.fit(
            watched,
            np.array(start),
            spots.planes,
            data,
            NOISE,
            FREE,
            largest=np.array([0.5, 0.3, 0.5]),
        )
        losses.append((before, found.point.loss))
        assert found.is_converged and found.point.loss <= before
        assert found.point.loss == pytest.approx(best.loss, abs=0.02)
    one = fitted(spots, data, n_iterations=1)
    assert one.n_evaluations == 1 and not one.is_converged


def test_shoeboxes_of_too_few_pixels_do_no_harm():
    """One without any pixel, and one with a single one, which its plane explains whatever the spot
    is.
    """
    spots = Spots(20)
    data = spots.drawn(np.random.default_rng(8))
    keep = np.ones(len(data.photons), bool)
    keep[spots.start[3] : spots.start[4]] = False
    keep[spots.start[7] + 1 : spots.start[8]] = False
    fewer = spots.count.copy()
    fewer[[3, 7]] = 0, 1
    less = solve.Data(data.photons[keep], data.plane[keep], np.concatenate([[0], np.cumsum(fewer)]))
    none = spots.count.copy()
    none[[3, 7]] = 0
    keep2 = np.repeat(~np.isin(np.arange(20), [3, 7]), spots.count)
    without = solve.Data(
        data.photons[keep2], data.plane[keep2], np.concatenate([[0], np.cumsum(none)])
    )

    def cut(keep):
        return lambda u: tuple(a[keep] for a in spots(u))

    some = solve.fit(cut(keep), np.zeros(3), spots.planes, less, NOISE, FREE)
    others = solve.fit(cut(keep2), np.zeros(3), spots.planes, without, NOISE, FREE)
    assert some.is_converged and others.is_converged
    np.testing.assert_allclose(some.point.unknowns, others.point.unknowns, atol=1e-3)


def test_a_restraint_weighs_as_a_measurement():
    """Of what the pixels know nothing: its centre and its variance; of what they know as well: the
    weighted mean.
    """
    spots = Spots(15)
    data = spots.drawn(np.random.default_rng(9))

    def blind(u):
        return (spots(u[:3])[0], np.column_stack([spots(u[:3])[1], np.zeros(len(spots.x))]))

    alone = fitted(spots, data).point
    sigma = np.sqrt(solve.covariances(alone)[0][0, 0])
    restraint = solve.Restraint(
        np.array([TRUTH[0] + 3 * sigma, 0, 0, 0.7]), np.array([1 / sigma**2, 0, 0, 1 / 0.2**2])
    )
    found = solve.fit(blind, np.zeros(4), spots.planes, data, NOISE, restraint).point
    fisher, sandwich = solve.covariances(found)
    assert found.unknowns[3] == pytest.approx(0.7) and fisher[3, 3] == pytest.approx(0.2**2)
    assert sandwich[3, 3] == pytest.approx(0.2**2)
    assert found.unknowns[0] == pytest.approx(
        0.5 * (alone.unknowns[0] + TRUTH[0] + 3 * sigma), abs=0.1 * sigma
    )
    assert fisher[0, 0] == pytest.approx(0.5 * sigma**2, rel=0.05)


def test_what_is_quoted_with_restraints_is_how_draws_scatter():
    """80 draws of 60 shoeboxes and of the centres, known as well as the pixels know them, and far
    better.
    """
    spots = Spots(60)
    rng = np.random.default_rng(12)
    pulls = []
    sigma = np.sqrt(np.diag(solve.covariances(fitted(spots, spots.drawn(rng)).point)[0])) * [
        1.0,
        0.1,
        1.0,
    ]
    for _ in range(80):
        data = spots.drawn(rng)
        known = solve.Restraint(TRUTH + sigma * rng.standard_normal(3), sigma**-2)
        found = solve.fit(spots, np.zeros(3), spots.planes, data, NOISE, known).point
        pulls.append(
            [(found.unknowns - TRUTH) / np.sqrt(np.diag(c)) for c in solve.covariances(found)]
        )
    assert (np.abs(np.mean(pulls, axis=0)) < 4 / np.sqrt(80)).all()
    np.testing.assert_allclose(np.std(pulls, axis=0), 1.0, atol=4 / np.sqrt(160))


@pytest.mark.parametrize("target", ["normal", "poisson"])
def test_lbfgs_ends_where_the_second_order_steps_do(target):
    """It looks no farther than it may, counts what it looks at, and tells its best where it has to
    stop early.
    """
    spots = Spots(30)
    seen = []
    data = spots.drawn(np.random.default_rng(13))

    def watched(u):
        seen.append(u)
        return spots(u)

    planes = np.tile([20.0, 0.0, 0.0], (30, 1))
    largest = np.array([0.3, 0.1, 0.1])
    of = (planes, data, NOISE, FREE)
    how = {"target": target, "largest": largest}
    best = solve.fit(spots, np.zeros(3), *of, **how)
    start = np.array([0.8, 0.3, -0.4])
    found = solve.descend(watched, start, *of, **how, n_iterations=100)
    assert found.is_converged and found.n_evaluations == len(seen) > best.n_evaluations
    assert found.point.loss == pytest.approx(best.point.loss, abs=0.02)
    assert (np.abs(np.array(seen) - start) <= solve.LBFGS_REACH * largest * (1 + 1e-12)).all()
    short = solve.descend(watched, start, *of, **how, n_iterations=4)
    assert not short.is_converged and short.n_evaluations == len(seen) - found.n_evaluations == 4
    losses = [
        solve.descend(spots, u, *of, target=target, n_iterations=1).point.loss for u in seen[-4:]
    ]
    assert short.point.loss == pytest.approx(min(losses), abs=1e-3)
    hedged = solve.descend(
        spots, start, *of, target=target, largest=0.01 * largest, n_iterations=100
    )
    assert not hedged.is_converged and hedged.point.loss > best.point.loss + 1.0


def test_pixels_of_a_right_model_deviate_as_normal_ones_do():
    spots = Spots(100)
    data = spots.drawn(np.random.default_rng(10))
    point = fitted(spots, data).point
    z = (data.photons - point.model) / np.sqrt(point.model + 1.0)
    assert stats.kstest(z, "norm").pvalue > 1e-3

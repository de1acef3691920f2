"""Normal equations that can be solved, that cannot, and that are wrong; the loop of damped steps on
a problem whose answer is known.
"""

from typing import NamedTuple

import numpy as np
import pytest

from spreadflow.analysis import least_squares
from spreadflow.analysis.least_squares import Damping, Ending, Limits, Unsolvable

DAMPING = Damping(first=1e-3, least=1e-9, least_after_rise=1e-2, largest=1e6)


def test_equations_are_solved_one_by_one():
    rng = np.random.default_rng(1)
    roots = rng.standard_normal((5, 3, 3))
    matrices = roots @ roots.transpose(0, 2, 1) + np.eye(3)
    x = rng.standard_normal((5, 3, 2))
    np.testing.assert_allclose(least_squares.solve(matrices, matrices @ x), x, rtol=1e-9)


def test_singular_equations_are_unsolvable():
    """Two unknowns of which only the sum is known."""
    with pytest.raises(Unsolvable, match="singular"):
        least_squares.solve(np.ones((4, 2, 2)), np.ones((4, 2, 1)))


@pytest.mark.parametrize(
    ("matrix", "right"), [(np.ones((2, 3)), np.ones(2)), (np.eye(3), np.ones(2))]
)
def test_shapes_that_do_not_fit_are_an_error_of_the_program(matrix, right):
    with pytest.raises(ValueError) as caught:
        least_squares.solve(matrix, right)
    assert not isinstance(caught.value, Unsolvable)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_equations_that_are_not_finite_are_unsolvable(value):
    least_squares.check_finite(np.eye(2), np.ones(2))
    with pytest.raises(Unsolvable, match="not finite"):
        least_squares.check_finite(np.full((2, 2), value), np.ones(2))
    with pytest.raises(Unsolvable, match="not finite"):
        least_squares.check_finite(np.eye(2), np.array([1.0, value]))


@pytest.mark.parametrize("ridge", [0.0, least_squares.RIDGE, 0.3])
def test_what_is_eliminated_is_solved_for_with_the_rest(ridge):
    """Two systems of 4 unknowns and 3 nuisances, whose diagonal is raised by the ridge."""
    rng = np.random.default_rng(4)
    design = rng.standard_normal((2, 20, 7))
    information = design.transpose(0, 2, 1) @ design
    right = rng.standard_normal((2, 7, 2))
    raised = information.copy()
    for i in (4, 5, 6):
        raised[:, i, i] *= 1.0 + ridge
    whole = np.linalg.solve(raised, right)

    left = least_squares.eliminate(information, right, 4, ridge)
    np.testing.assert_allclose(np.linalg.solve(left.information, left.right), whole[:, :4])
    np.testing.assert_allclose(left.own - left.coupling @ whole[:, :4], whole[:, 4:])
    inverse = np.linalg.inv(raised)[:, :4, :4]
    np.testing.assert_allclose(np.linalg.inv(left.information), inverse, atol=1e-12)


def test_nuisances_that_no_data_determine_take_nothing_away():
    """A shoebox without pixels, and one whose only pixel can't tell the slopes of its plane."""
    pixel = np.array([2.0, 1.0, 0.5, -0.3])
    information = np.stack([np.zeros((4, 4)), np.outer(pixel, pixel)])
    left = least_squares.eliminate(information, information[:, :, :1], 1, least_squares.RIDGE)
    assert np.isfinite(left.coupling).all() and np.isfinite(left.own).all()
    assert left.information[0] == 0.0
    np.testing.assert_allclose(left.information[1], 0.0, atol=4e-6)
    with pytest.raises(Unsolvable):
        least_squares.eliminate(np.zeros((4, 4)), np.zeros((4, 0)), 1)


class Valley(NamedTuple):
    """Rosenbrock's curved valley (1960, Comput. J. 3, 175), whose floor is lowest at (1, 1)."""

    x: np.ndarray
    nuisance_gain: float = 0.0

    @property
    def residuals(self) -> np.ndarray:
        return np.array([10.0 * (self.x[1] - self.x[0] ** 2), 1.0 - self.x[0]])

    @property
    def jacobian(self) -> np.ndarray:
        return np.array([[-20.0 * self.x[0], 10.0], [-1.0, 0.0]])

    @property
    def loss(self) -> float:
        return 0.5 * float(self.residuals @ self.residuals)

    @property
    def gradient(self) -> np.ndarray:
        return self.jacobian.T @ self.residuals

    @property
    def hessian(self) -> np.ndarray:
        return self.jacobian.T @ self.jacobian


def moved(point: Valley, step: np.ndarray, _: float) -> Valley:
    return Valley(point.x + step)


START = Valley(np.array([-1.2, 1.0]))


@pytest.mark.parametrize(
    "limits", [Limits(60, smallest_promise=1e-20), Limits(60, smallest_fall=1e-20)]
)
def test_damped_steps_go_round_the_bend_of_a_valley(limits):
    fit = least_squares.levenberg_marquardt(START, moved, DAMPING, limits)
    assert fit.ending == Ending.CONVERGED and fit.is_converged
    np.testing.assert_allclose(fit.point.x, [1.0, 1.0], atol=1e-8)


def test_the_loss_never_rises_and_no_step_is_too_long():
    losses = [START.loss]
    steps = []

    def watched(point: Valley, step: np.ndarray, damping: float) -> Valley:
        losses.append(point.loss)
        steps.append(step)
        return moved(point, step, damping)

    largest = np.array([0.3, 0.2])
    limits = Limits(9, largest_step=largest)
    fit = least_squares.levenberg_marquardt(START, watched, DAMPING, limits)
    assert (np.diff(losses) <= 0.0).all()
    assert (np.abs(steps) <= largest * (1 + 1e-12)).all()
    assert (fit.n_evaluations, fit.ending) == (9, Ending.TOO_MANY)


def test_a_fit_ends_where_no_step_helps():
    """Every step leads back uphill."""
    uphill = Valley(np.array([3.0, -5.0]))
    fit = least_squares.levenberg_marquardt(START, lambda *_: uphill, DAMPING, Limits(60))
    assert fit.point is START and fit.ending == Ending.NO_FALL


def test_a_fit_whose_start_is_not_finite_is_unsolvable():
    with pytest.raises(Unsolvable, match="not finite"):
        least_squares.levenberg_marquardt(Valley(START.x * np.nan), moved, DAMPING, Limits(60))

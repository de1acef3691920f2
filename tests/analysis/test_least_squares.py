"""Normal equations that can be solved, that cannot, and that are wrong."""

import numpy as np
import pytest

from spreadflow.analysis import least_squares
from spreadflow.analysis.least_squares import Unsolvable


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

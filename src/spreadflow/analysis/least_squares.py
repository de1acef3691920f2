"""Normal equations solved, and the one exception that says that they cannot be."""

import numpy as np


class Unsolvable(ArithmeticError):
    """Normal equations are singular, or not finite: what is fitted has no solution.

    Solvers alone raise it. Whoever fits many lattices catches it, and nothing else: any other
    error is one of the program.
    """


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return matrix⁻¹ right of square matrices (..., n, n) and right sides (..., n, k) or (n,).

    What is not finite leads to what is not finite (see `check_finite`). Raises Unsolvable where a
    matrix is singular.
    """
    n_rows, n_columns = matrix.shape[-2:]
    if n_rows != n_columns:
        raise ValueError(f"a square matrix is needed; found {n_rows} × {n_columns}")
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError as error:
        raise Unsolvable("the normal equations are singular") from error


def check_finite(hessian: np.ndarray, gradient: np.ndarray) -> None:
    """Raise Unsolvable unless normal equations are finite."""
    if not (np.isfinite(hessian).all() and np.isfinite(gradient).all()):
        raise Unsolvable("the normal equations are not finite")

"""Compiled linear algebra of a few unknowns, for loops that solve for them again and again:
NumPy's costs more than the arithmetic there, and a second of compiling.
"""

from spreadflow.physics.compiling import inlined


@inlined
def invert(matrix):
    """Invert a symmetric positive definite matrix (n, n) in place: Gauss-Jordan elimination, which
    needs no pivots there.
    """
    n = len(matrix)
    for p in range(n):
        pivot = 1.0 / matrix[p, p]
        matrix[p, p] = 1.0
        for j in range(n):
            matrix[p, j] *= pivot
        for i in range(n):
            if i != p:
                factor = matrix[i, p]
                matrix[i, p] = 0.0
                for j in range(n):
                    matrix[i, j] -= factor * matrix[p, j]

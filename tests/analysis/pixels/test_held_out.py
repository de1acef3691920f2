"""What is expected of shoeboxes that were not fitted, against fits without them."""

from types import SimpleNamespace

import numpy as np

from spreadflow.analysis.pixels import held_out


def test_expected_loss_is_that_of_fits_without_each_shoebox():
    """Least squares, where it is exact: 9 shoeboxes of 12 pixels, 4 unknowns, a model that is wrong
    by more than the noise.
    """
    rng = np.random.default_rng(1)
    design = rng.standard_normal((9, 12, 4))
    data = rng.standard_normal((9, 12)) + 3.0 * rng.standard_normal((9, 1))

    def fitted(boxes: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(design[boxes].reshape(-1, 4), data[boxes].ravel(), rcond=None)[0]

    def loss(box: int, unknowns: np.ndarray) -> float:
        return 0.5 * float(((data[box] - design[box] @ unknowns) ** 2).sum())

    every = np.arange(9)
    unknowns = fitted(every)
    informations = np.einsum("bpi,bpj->bij", design, design)
    residual = data - design @ unknowns
    point = SimpleNamespace(
        loss=sum(loss(box, unknowns) for box in every),
        hessian=informations.sum(axis=0),
        informations=informations,
        scores=-np.einsum("bpi,bp->bi", design, residual),
    )
    left_out = sum(loss(box, fitted(np.delete(every, box))) for box in every)
    np.testing.assert_allclose(held_out.expected_loss(point), left_out, rtol=1e-9)

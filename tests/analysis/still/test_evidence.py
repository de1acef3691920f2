"""What speaks for a lattice: signal where it predicts, against chance; and where signal ends."""

import numpy as np
import pytest

from spreadflow.analysis.still import evidence
from spreadflow.analysis.still.prediction import Predicted
from spreadflow.models import Detector
from spreadflow.physics import geometry

DETECTOR = Detector(
    np.array([[-50.0, 60.0, -100.0], [10.0, 60.0, -101.0]]),
    np.array([[1.0, 0, 0]] * 2),
    np.array([[0, -1.0, 0]] * 2),
    np.array(0.2),
    (600, 280),
)
N = 500
"""predictions of a lattice"""


def predictions(n: int = N, seed: int = 0) -> Predicted:
    """Predictions anywhere on two panels, of d from 10 to 2 Å."""
    rng = np.random.default_rng(seed)
    columns = {name: np.zeros(n) for name in Predicted._fields}
    return Predicted(**columns)._replace(
        hkl=np.arange(3 * n).reshape(n, 3),
        d=np.sort(1.0 / rng.uniform(0.1, 0.5, n))[::-1],
        panel=rng.integers(0, 2, n),
        fast=rng.uniform(0, 280, n),
        slow=rng.uniform(0, 600, n),
        partiality=rng.uniform(0, 1, n),
    )


def weighed(signal: np.ndarray, is_spot: np.ndarray, seed: int = 1) -> evidence.Evidence:
    """Evidence of predictions with this mean I/σ; the control is noise."""
    rng = np.random.default_rng(seed)
    z = np.clip(signal + rng.standard_normal(N), -evidence.LARGEST_Z, evidence.LARGEST_Z)
    return evidence.weigh(predictions(), z, is_spot, rng.standard_normal(300))


def test_a_lattice_that_is_not_there_has_its_spots_and_nothing_else():
    is_spot = np.arange(N) % 28 == 0
    found = weighed(np.where(is_spot, 20.0, 0.0), is_spot)

    assert found.n_signal == pytest.approx(is_spot.sum(), abs=3)
    assert abs(found.significance) < 3
    assert found.share_signal < 0.1
    assert not found.is_enough


def test_faint_signal_everywhere_is_evidence():
    is_spot = np.arange(N) % 28 == 0
    found = weighed(np.where(is_spot, 20.0, 0.4), is_spot)
    assert found.significance > 4
    assert found.is_enough


def test_spots_at_most_well_recorded_predictions_are_evidence():
    """Bright crystals: nothing is left to be seen where no spot was found."""
    is_spot = predictions().partiality > 0.4
    found = weighed(np.where(is_spot, 20.0, 0.0), is_spot)
    assert abs(found.significance) < 3
    assert found.share_signal > 0.7
    assert found.is_enough


def test_what_the_control_carries_too_is_no_evidence():
    """A background that is not flat, ice, the spots of another lattice."""
    rng = np.random.default_rng(2)
    none = np.zeros(N, dtype=bool)
    z = 0.5 + rng.standard_normal(N)
    found = evidence.weigh(predictions(), z, none, 0.5 + rng.standard_normal(400))
    assert not found.is_enough
    assert not evidence.weigh(predictions(), np.full(N, np.nan), none, z).is_enough


@pytest.mark.parametrize("end", [150, 300, N])
def test_the_resolution_limit_is_where_signal_ends(end):
    signal = np.where(np.arange(N) < end, 1.5, 0.0)
    found = weighed(signal, np.zeros(N, dtype=bool))
    d = predictions().d
    first, last = max(end - 10, 0), min(end + 60, N - 1)
    assert d[last] <= found.d_min <= d[first]


def test_a_lattice_without_signal_has_no_limit_that_picks_what_fluctuated_up():
    for seed in range(5):
        found = weighed(np.zeros(N), np.zeros(N, dtype=bool), seed)
        assert not found.is_enough
        assert found.d_min == predictions().d[-1]


def test_faint_signal_to_the_end_is_kept():
    found = weighed(np.full(N, 0.3), np.zeros(N, dtype=bool))
    assert found.d_min < predictions().d[-40]


def test_turned_predictions_keep_their_angle_from_the_beam():
    predicted = predictions(150)
    turned = evidence.turned(predicted, DETECTOR, 0.6)
    number = turned.hkl[:, 0] // 3

    assert 50 < len(number) < 150, "some leave the panels"
    before = geometry.direction(DETECTOR, predicted.panel, predicted.fast, predicted.slow)[number]
    after = geometry.direction(DETECTOR, turned.panel, turned.fast, turned.slow)
    np.testing.assert_allclose(after[:, 2], before[:, 2], atol=1e-12)
    angle = np.arctan2(after[:, 1], after[:, 0]) - np.arctan2(before[:, 1], before[:, 0])
    np.testing.assert_allclose(np.mod(angle, 2 * np.pi), 0.6, atol=1e-9)
    assert len(evidence.turned(predictions(1000), DETECTOR, 0.0).hkl) == evidence.N_CONTROL

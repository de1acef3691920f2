"""Panels as headers state them: a detector that can't be is one clear error, whatever format it is
of. What else is refused is in the tests of the formats.
"""

import numpy as np
import pytest

from spreadflow.errors import FileError
from spreadflow.io.panels import Panel, Sensor, detector, upright

STRAIGHT = upright((0.25, 0.15), 100.0, (0.1, 0.1), (3, 5))


def test_a_panel_across_the_beam_is_centred_where_the_beam_meets_it():
    whole = detector("x", [STRAIGHT], Sensor(0.32, 0.2))
    centre = whole.origin_mm[0] + 0.1 * (2.5 * whole.fast[0] + 1.5 * whole.slow[0])
    assert np.allclose(centre, [0, 0, -100], rtol=0, atol=1e-12)
    assert (whole.shape, whole.pixel_mm) == ((3, 5), pytest.approx(0.1))
    assert (whole.thickness_mm, whole.attenuation_mm) == (0.32, 0.2)


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        (STRAIGHT._replace(origin_mm=np.array([0, 0, 100])), "found panel 1, 100 mm towards"),
        (STRAIGHT._replace(origin_mm=np.array([0, np.inf, -100])), "finite positions"),
        (STRAIGHT._replace(slow_mm=np.array([0, np.nan, 0])), "square pixels"),
        (STRAIGHT._replace(fast_mm=np.array([0.1, 0.1, 0]) / np.sqrt(2)), "45.000°"),
        (STRAIGHT._replace(fast_mm=np.zeros(3)), "square pixels of equal size"),
        (STRAIGHT._replace(shape=(3, 4)), "panels of equal shape"),
        (upright((0, 0), 100.0, (0.2, 0.2), (3, 5)), "equal size; found 0.1 to 0.2 mm"),
    ],
)
def test_one_panel_that_can_not_be_is_refused(panel: Panel, message: str):
    with pytest.raises(FileError, match=message):
        detector("x", [STRAIGHT, panel])


@pytest.mark.parametrize("lengths_mm", [(-0.3, 0.2), (np.nan, 0.2), (0.3, np.inf)])
def test_a_sensor_that_can_not_be_is_refused(lengths_mm):
    with pytest.raises(FileError, match="attenuation length of the sensor, not negative"):
        detector("x", [STRAIGHT], Sensor(*lengths_mm))

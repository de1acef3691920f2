"""Vectors of values in compiled loops, against NumPy."""

import numpy as np

from spreadflow.physics.compiling import compiled
from spreadflow.physics.lanes import LANES, add, add_product, aligned, load, scale, store, zeros


@compiled
def _worked_on(single, double, start, out):
    a = load(single, np.uint64(start))
    b = load(double, np.uint64(start))
    total = add(zeros(), scale(a, 0.5))
    store(out, np.uint64(start), add_product(total, a, b))


def test_vectors_are_worked_on_lane_by_lane_from_any_place():
    rng = np.random.default_rng(1)
    single = rng.normal(size=3 * LANES).astype(np.float32)
    double = rng.normal(size=3 * LANES)
    for start in (0, 1, LANES + 3):
        out = np.zeros(3 * LANES)
        _worked_on(single, double, start, out)
        own = slice(start, start + LANES)
        expected = np.zeros(3 * LANES)
        expected[own] = 0.5 * single[own] + single[own].astype(float) * double[own]
        np.testing.assert_allclose(out, expected, rtol=1e-14)


def test_arrays_begin_at_a_line_of_the_cache():
    for n in (1, 7, 1000):
        values = aligned(n)
        assert values.shape == (n,)
        assert values.ctypes.data % 64 == 0
        assert not values.any()
